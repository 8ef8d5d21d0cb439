#pragma once

/// Runs what has been agreed on: pack, reduce, unpack. Knows nothing of how the agreement came
/// about.

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "data/data_plane.h"
#include "engine/blocking_allreduce.h"
#include "engine/engine_trace.h"
#include "engine/fusion_buffer.h"
#include "engine/group.h"
#include "engine/work.h"

namespace kolo::core {

/// The host packs and unpacks its own memory. A GPU does so in its own time, as a part of the
/// operation, whose submissions are done for their users as soon as all of that is in the GPU's
/// queue; what it uses is kept until the GPU is done, too.
///
/// Used by one thread at a time. Each channel starts its groups in the order in which they
/// were enqueued, which is the same on all its members; channels do not wait for each other.
class Executor {
 public:
  /// `trace` may be null.
  Executor(DataPlane& plane, std::size_t fusion_threshold, EngineTrace* trace);
  ~Executor();

  /// A process set with these global ranks, of which this rank is number `member`.
  void add_channel(ChannelId channel, std::vector<int> ranks, int member);

  /// `batch`: agreed on in this order by every member of the channel.
  void enqueue(ChannelId channel, std::vector<AgreedSubmission> batch);

  /// How far run_now() has come.
  struct RunNow {
    /// Unable: nothing was started. Late: members have yet to come, and the operation is in flight
    /// like any other.
    enum class State { Unable, Done, Declined, Late };

    State state = State::Unable;
    /// If it is late.
    std::shared_ptr<Work> work;
  };

  /// How often run_now() looks whether the operation is done, and whether it offers its core to
  /// others before it looks again.
  struct Looks {
    int most = 1;
    bool gives_way = false;
  };

  /// Runs the next operation of a plan whose operations are all alike, if nothing else is under
  /// way.
  Result<RunNow> run_now(ChannelId channel, const BlockingAllreduce& allreduce, Looks looks);

  /// Operations that a member has declined since the last call, this one's own among them, and
  /// those that were ended without a reason.
  std::vector<SubmissionPtr> take_declined() { return std::exchange(declined_, {}); }

  /// Starts what can be started, moves what is in flight, completes what is done. True when
  /// anything has changed. After a failure the data plane is unusable. Throws std::bad_alloc.
  Result<bool> progress();

  /// Whether the operation whose failure progress() has reported was ended since.
  bool failure_is_moot() const;

  /// Nothing is under way, or to be had from take_declined().
  bool idle() const;

  /// Whether there is such a channel, and how many operations were enqueued in each that is not
  /// closed.
  bool contains(ChannelId channel) const;
  std::vector<PlanProgress> enqueued() const;

  struct Place {
    ChannelId channel = 0;
    std::uint64_t sequence = 0;
    const Request* request = nullptr;
  };
  /// Where this operation is that is not done; nothing when it is not here.
  std::optional<Place> find(const Work* work) const;

  /// Operations of `channel` from number `operations` on fail with this reason, now and later: a
  /// member will not start them. Without a reason, take_declined() gives them.
  void end(ChannelId channel, std::uint64_t operations, const std::string& reason);

  /// No member will enqueue anything there any more: the channel goes when nothing of it is in
  /// flight.
  void close(ChannelId channel);

  /// An operation for which not all members have come.
  struct Stall {
    std::string operation;
    std::chrono::duration<double> age{0};
    /// Global ranks.
    std::vector<int> present, missing;
  };

  /// The first of each channel that was started at least `age` ago.
  std::vector<Stall> stalled(Clock::time_point now, std::chrono::duration<double> age) const;

  /// Completes everything with this error.
  void fail(const std::string& error);

 private:
  struct Channel;

  void add(Channel& channel, FusionGroup plan, std::vector<AgreedSubmission>& batch);
  Status start_now(Channel& channel, std::uint64_t sequence, const BlockingAllreduce& allreduce);
  Group alone(std::uint64_t sequence, SubmissionPtr submission) const;
  void mark_busy(Channel& channel);
  Result<bool> progress(Channel& channel);
  Status start(Channel& channel, Group waiting);
  Status start_operation(const Members& members, Group& group);
  void finish(Channel& channel, Group& group);
  void withdraw(Channel& channel, std::vector<Group>::iterator first, const std::string& error);
  static void give_up_withdrawn(Channel& channel);
  void give_up(Group& group, const std::string& reason);
  void drop_closed();
  FusionBufferPool& buffers(DeviceType device);

  DataPlane& plane_;
  const std::size_t fusion_threshold_;
  EngineTrace* const trace_;
  std::map<ChannelId, Channel> channels_;
  /// Those that have something queued or in flight, and maybe some that have no more.
  std::vector<Channel*> busy_;
  /// Those that will be gone when they are idle.
  std::vector<ChannelId> closed_;
  std::vector<SubmissionPtr> declined_;
  /// What was withdrawn from channels that are gone.
  std::vector<Group> withdrawn_;
  FusionBufferPool host_buffers_;
  FusionBufferPool gpu_buffers_;
  /// Channel and number of the operation whose failure was reported.
  std::pair<ChannelId, std::uint64_t> failed_{};
};

}  // namespace kolo::core
