#pragma once

/// The leader's table of one process set: which ranks have submitted what. No I/O and no thread, so
/// that a test can drive it.

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "engine/recurrence.h"
#include "engine/work.h"
#include "wire/messages.h"

namespace kolo::core {

/// The life of one operation at the leader. Each rank's n-th submission of a name belongs to the
/// name's n-th operation.
///
///   state      event                       reply                             next state
///   ---------  --------------------------  --------------------------------  -----------------------
///   Waiting    submitted by the last rank  go ahead, to all                  ends
///   Waiting    submission that does not    the error, to those that have     Failed
///              match, or a refusal,        submitted validly
///              a member left, time is up
///   Failed     submitted by another rank   the same error, to that rank      Failed; ends after the
///                                                                            last rank
///
/// "Go ahead" may give the name a plan of its own (recurrence.h). Such replies are in one order for all
/// members. A rank whose call was refused knows already and gets no reply. A rank that has left counts as
/// having submitted.
///
/// Ranks that run the same program mostly ask for the same list of operations at once. While nothing else
/// is waiting, such a list waits as a whole:
///
///   state      event                                 what follows
///   ---------  ------------------------------------  -------------------------------------------------
///   no list    a list that can wait as a whole, and  it waits
///              no operation does
///   waits      the same list from another rank       it waits on; from the last rank: go ahead, to all,
///                                                    for each of it, in its order
///   waits      any other event                       each of its operations is submitted by each rank
///                                                    that has asked for it, in the table above, before
///                                                    the event is
class Negotiator {
 public:
  /// Of the process set with these global ranks, ascending. `names_recur`: names may get plans of their own.
  explicit Negotiator(std::vector<int> ranks, bool names_recur = false);

  /// What the rank has submitted at once.
  void add(int rank, std::shared_ptr<const RequestList> list, Clock::time_point now);

  /// The rank will submit nothing any more, and its part in what waits is withdrawn.
  void leave(int rank);

  struct Replies {
    explicit Replies(std::size_t members) : to_one(members) {}

    /// To be heard before the others.
    std::vector<Response> to_all;
    /// By index of the member.
    std::vector<std::vector<Response>> to_one;
  };
  /// Those since the last call.
  Replies take_replies();

  bool has_replies() const { return has_replies_; }

  struct Stall {
    std::string name;
    CollectiveKind kind = CollectiveKind::Allreduce;
    std::vector<int> submitted;
    std::vector<int> missing;
    std::chrono::duration<double> age{};
  };
  /// Operations that have waited longer than `age` for some ranks.
  std::vector<Stall> stalled(Clock::time_point now, std::chrono::duration<double> age);

  /// Fails the oldest operation of that name that has not failed yet.
  void fail(const std::string& name, const std::string& error);

  /// The leader itself has taken part in an operation that has not ended for all members.
  bool expects_members() const;

 private:
  struct Operation {
    Request first;
    int first_rank = 0;
    Clock::time_point since;
    /// By member: whether it has submitted (validly or not, or has left).
    std::vector<bool> submitted;
    std::size_t submissions = 0;
    /// Members that wait for a reply.
    std::vector<std::size_t> waiting;
    /// Allgather, Alltoall: by member, what it gives: its first dimension, or its splits.
    std::vector<std::vector<std::int64_t>> rows;
    /// All that have submitted wait for it.
    bool awaited = true;
    std::string error;
  };

  /// A list that waits as a whole, and the ranks that have asked for it, in their order.
  struct Whole {
    std::shared_ptr<const RequestList> list;
    Clock::time_point since;
    std::vector<int> ranks;
  };

  bool joins_whole(int rank, const std::shared_ptr<const RequestList>& list, Clock::time_point now);
  void take_apart();
  void add(int rank, const Request& request, Clock::time_point now);
  static bool is_waiting(const Operation& operation) { return operation.error.empty(); }
  std::size_t member_of(int rank) const;
  Operation& operation_for(std::size_t member, const Request& request, int rank,
                           Clock::time_point now);
  void fail(Operation& operation, const std::string& error);
  void go_ahead(const Request& request, bool awaited, Response response = {});
  void conclude(Operation& operation);
  void count(Operation& operation, std::size_t member);
  static std::vector<std::int64_t> first_dimensions(const Operation& operation, std::size_t member);
  void forget_ended(const std::string& name);

  std::vector<int> ranks_;
  std::optional<RecurrenceFinder> recurrence_;
  std::set<int> left_;
  std::optional<Whole> whole_;
  /// By name; usually one operation each, more while a failed one waits for its last ranks.
  std::unordered_map<std::string, std::vector<Operation>> operations_;
  /// Open operations that member 0 has submitted.
  std::size_t joined_by_leader_ = 0;
  Replies replies_;
  bool has_replies_ = false;
  ChannelId next_channel_ = kWorldChannel + 1;
};

}  // namespace kolo::core
