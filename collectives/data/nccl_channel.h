#pragma once

/// The members of a channel, connected by NCCL.

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "cuda/communicator.h"
#include "cuda/event.h"
#include "cuda/memory.h"
#include "cuda/stream.h"
#include "data/data_plane.h"
#include "data/nccl_introduction.h"

namespace kolo::core {

/// Used by one thread at a time, with its GPU current.
///
///   state       meaning                                     leaves it
///   ----------  ------------------------------------------  ---------------------------
///   Meeting     members introduce themselves, by an         all have, and can connect
///               all-gather over the host's plane            -> Connecting
///   Connecting  NCCL connects them, in threads of its own   it has -> Open
///   Open        operations are issued, one after the other  its plan, or the plane, is over, and
///                                                           so are all operations -> Ending
///   Ending      NCCL ends the communicator, in a thread     it has -> Ended
///               of its own
///   Ended                                                   (never)
///   Failed      the communicator is aborted, so that no     (never)
///               GPU waits for ever; all operations fail
///
/// A channel that is over before it is Open ends as well. A member that is alone is Open at once, and
/// needs no communicator: NCCL 2.28's reductions of one rank leave out the last elements of some
/// counts.
///
/// The first failure, whatever the state, leads to Failed: what NCCL reports of this or another
/// member, a member that takes too long, an operation that is given up. Members that have not
/// failed find their peers gone (as far as NCCL notices), or hear of it from the engine, which
/// gives up their operations.
class NcclChannel {
 public:
  /// What it is made of, for as long as it lives.
  struct Setup {
    DataPlane& host;
    int device = 0;
    bool gpus_are_shared = false;
    std::chrono::duration<double> connect_within{0};
    std::chrono::duration<double> end_within{0};
    std::shared_ptr<cuda::Memory> memory;
  };

  /// `first`: the operation that the channel begins with.
  NcclChannel(const Setup& setup, const Collective& first);
  NcclChannel(const NcclChannel&) = delete;
  NcclChannel& operator=(const NcclChannel&) = delete;

  /// Goes on with connecting. Whether it is Open; the failure, if it has failed.
  Result<bool> open();
  /// Members, by index, that have not introduced themselves.
  std::vector<int> missing() const;

  /// Open: whether the communicator takes another call.
  Result<bool> settled();
  const cuda::Communicator& communicator() const { return *communicator_; }
  cudaStream_t stream() const { return stream_->get(); }

  /// Operations take turns: each takes a number when it starts, and passes its turn on when it is
  /// issued.
  std::uint64_t take_number() { return next_number_++; }
  bool has_turn(std::uint64_t number) const { return number == turn_; }
  void pass_turn() { ++turn_; }

  /// Started and not over: those that a failure is the fate of.
  void add(std::shared_ptr<cuda::Fate> operation) { operations_.push_back(std::move(operation)); }
  void remove(const std::shared_ptr<cuda::Fate>& operation);
  bool idle() const { return operations_.empty(); }

  /// No operation is added any more: goes to Ending as soon as it is idle.
  void end();
  /// A channel that has failed does not end: the GPU may still be at what was given up.
  bool ended() const { return over_ && failure_.ok() && (!ending_ || ending_->over()); }

  /// Has NCCL know the block that the address is in, if it is one of the plane's.
  Status know(const void* address);
  /// Whether NCCL does not know the block any more: not while its last call is under way.
  bool forget(const cuda::Memory::Block& block);
  /// Returns when the GPU has run all that it was given, in vain if the channel has failed.
  void drain() const;

  /// The first failure lasts.
  Status fail(const Status& failure);

  /// Before the first operation whose times are asked for.
  Status compare_clocks();
  /// When the GPU was at that event, which it has reached, on the host's clock.
  Result<std::chrono::steady_clock::time_point> time_of(const std::shared_ptr<cuda::Event>& event);

 private:
  using Clock = std::chrono::steady_clock;

  bool alone() const { return ranks_.size() == 1; }
  Status meet();
  Status connect();
  Result<bool> advance();
  Status late() const;
  void end_if_idle();

  const Setup setup_;
  const std::vector<int> ranks_;
  const int member_;
  const Clock::time_point began_ = Clock::now();
  Status failure_;

  /// Meeting.
  Collective meeting_;
  NcclIntroduction own_;
  std::vector<NcclIntroduction> members_;
  std::unique_ptr<Operation> gathering_;

  /// Connecting and Open.
  std::optional<cuda::Stream> stream_;  // outlives what NCCL has yet to put into it
  std::optional<cuda::Communicator> communicator_;
  bool open_ = false;

  /// Ending.
  bool over_ = false;
  std::optional<cuda::EndingCommunicator> ending_;

  std::uint64_t next_number_ = 0;
  std::uint64_t turn_ = 0;
  std::vector<std::shared_ptr<cuda::Fate>> operations_;
  /// By the begin of the block, what NCCL calls it.
  std::map<std::byte*, void*> known_;

  /// An event, and when it was.
  std::shared_ptr<cuda::Event> anchor_;
  Clock::time_point anchor_time_;
};

}  // namespace kolo::core
