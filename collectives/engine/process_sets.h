#pragma once

/// The process sets that this rank belongs to: what it has submitted to each, and, where it leads,
/// what it answers.
///
/// In each process set the first rank is the leader. Members send it Requests; its Negotiator
/// (negotiator.h has the states of one operation) answers with Responses; what all have agreed on
/// goes to the Executor. Three parts that know nothing of each other: negotiation, planning,
/// execution. Operations of a plan are agreed on from the start, and go to the Executor at once.
///
/// A rank submits a name again only when it has been answered (where the name recurs: when it is
/// done). One that comes before is refused at once, and takes its turn with the leader when the
/// name is free: so each rank's n-th submission belongs to the name's n-th operation, which fails
/// on all ranks.
///
/// Messages from different ranks may overtake each other: a leader may get requests for a set of
/// which rank 0 has not told it yet, and keeps them.

#include <functional>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/status.h"
#include "base/topology.h"
#include "data/data_plane.h"
#include "engine/blocking_allreduce.h"
#include "engine/channel.h"
#include "engine/engine_trace.h"
#include "engine/executor.h"
#include "engine/plans.h"
#include "engine/work.h"
#include "wire/messages.h"

namespace kolo::core {

/// Used by one thread at a time. After an error the whole job has failed. `now`: when the look at
/// hand began.
class ProcessSets {
 public:
  /// To these, but for this rank itself.
  using Send = std::function<Status(std::span<const int> destinations, const Message& message)>;

  /// Begins with the set of all ranks. `trace` may be null.
  ProcessSets(const Topology& topology, const DataPlane& data, Executor& executor, Plans& plans,
              EngineTrace* trace, Send send);

  /// Runs an operation that needs no negotiation; see Executor::run_now().
  Result<Executor::RunNow> run_now(const BlockingAllreduce& allreduce, Executor::Looks looks);

  /// Takes submissions of this rank. What is wrong with one of them, its Work says.
  Status hand_in(std::span<SubmissionPtr> submissions, Clock::time_point now);

  /// Operations of names that recurred, which a member has declined, or left without:
  /// the leaders are asked.
  Status hand_in_again(std::vector<SubmissionPtr> declined, Clock::time_point now);

  /// From a member of a set that this rank leads, and from a leader.
  Status handle(int source, std::shared_ptr<const RequestList> list, Clock::time_point now);
  Status handle(int source, const ResponseList& list);

  /// Sends what this rank, as a leader, has to answer. True when that was anything.
  Result<bool> answer();

  /// A rank, maybe this one, submits nothing any more. Gives those of its sets that this one leads.
  std::vector<ChannelId> leave(int rank);

  /// Those for which leave() was called.
  const std::set<int>& left() const { return left_; }

  /// Ends what waits for an answer, and all that is handed in from now on, with this error.
  void end(const std::string& error);

  /// Whether somebody here waits for what other ranks submit or answer.
  bool expecting() const;

  /// An operation that this rank waits for, if others have to take part in it before it is done; see circle.h.
  std::optional<AwaitedOperation> find(const Work* work) const;
  /// Grows whenever something is submitted here, or an answer comes.
  std::uint64_t changes() const { return changes_; }
  /// Whether this rank has yet to submit that operation of another rank.
  bool lacks(const AwaitedOperation& operation) const;

  std::map<ChannelId, Channel>& all() { return channels_; }
  const std::map<ChannelId, Channel>& all() const { return channels_; }

 private:
  /// What the leaders are asked for, by set.
  struct Outbox {
    /// Requests to one leader.
    std::size_t most = 0;
    std::map<ChannelId, RequestList> lists;
  };

  /// Refused because its name was in use.
  struct Refused {
    ChannelId channel = 0;
    Request request;
  };

  void take(SubmissionPtr taken, Outbox& outbox, Clock::time_point now);
  void take_turns(Outbox& outbox);
  Request& ask(ChannelId id, Channel& channel, const Request& request, Outbox& outbox);
  Status send_off(Outbox outbox, Clock::time_point now);
  Status tell(ChannelId id, Channel& channel, std::span<const int> ranks,
              std::vector<Response> responses);
  Status execute(ChannelId id, Channel& channel, const std::vector<Response>& responses);
  Status complete_process_set(const Submission& submission, const Response& response);
  void add_channel(ChannelId id, std::vector<int> ranks);

  const int rank_;
  const DataPlane& data_;
  Executor& executor_;
  Plans& plans_;
  EngineTrace* const trace_;
  const Send send_;
  std::map<ChannelId, Channel> channels_;
  /// For sets that this rank leads without knowing it yet, by rank.
  std::map<ChannelId, std::vector<std::pair<int, std::shared_ptr<const RequestList>>>>
      early_requests_;
  /// In the order in which they came; those of names that are in use have yet to be told.
  std::vector<Refused> refused_;
  std::set<int> left_;
  std::uint64_t changes_ = 0;
  /// The error given to end().
  std::string end_;
};

}  // namespace kolo::core
