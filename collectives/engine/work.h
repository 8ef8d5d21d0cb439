#pragma once

/// One submitted operation and its outcome: the only thing that user threads and the coordinator
/// share.

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "base/device.h"
#include "base/status.h"
#include "wire/messages.h"

namespace kolo::core {

using Clock = std::chrono::steady_clock;

/// A tensor that travels with others in one operation, for the timeline.
struct Part {
  std::string name;
  Clock::time_point ready;
};

/// When an operation ran, on this rank's clock.
struct OperationTimes {
  /// Something had come from all members: what follows is no waiting for one that is late. Over MPI
  /// a member's first bytes may be a part of the transfer.
  Clock::time_point met;
  Clock::time_point done;
};

/// What an operation leaves besides the bytes in its output.
struct Outcome {
  /// Allgather, Reducescatter, Alltoall: the result's bytes, and the rows that it consists of:
  /// those of each member, or (Reducescatter) its own.
  std::shared_ptr<void> made;
  std::vector<std::int64_t> first_dimensions;
  /// AddProcessSet: the new set's channel.
  ChannelId new_channel = 0;
  /// An operation of the GPU is done for the host when the GPU has been told to run it. When it will
  /// have: whoever uses its output, or frees its memory, makes that wait for this.
  std::shared_ptr<DeviceEvent> finished;
};

class Baton;

/// Thread-safe. What the coordinator wrote before complete() is seen after done() or wait(): done_
/// is stored with release order, and loaded with acquire order.
class Work {
 public:
  /// Whoever waits works with this baton. To be called before there is anybody else who knows of it.
  void work_with(std::shared_ptr<Baton> baton) { baton_ = std::move(baton); }

  bool done() const { return done_.load(std::memory_order_acquire); }

  /// Blocks until the operation is done, and says how it went.
  Status wait() const;

  /// Sleeps until the operation is done, or somebody is to be woken by nudge().
  void sleep() const;
  void nudge() const;

  /// Valid after a wait() that returned success.
  const Outcome& outcome() const { return outcome_; }

  void complete(Status status, Outcome outcome = {});

 private:
  std::shared_ptr<Baton> baton_;
  mutable std::mutex mutex_;
  mutable std::condition_variable condition_;
  mutable bool nudged_ = false;  // guarded by mutex_
  std::atomic<bool> done_ = false;
  // Written before done_.
  std::optional<Status> status_;
  Outcome outcome_;
};

/// An operation on its way from the user's thread through the coordinator.
struct Submission {
  /// The process set.
  ChannelId channel = kWorldChannel;
  /// Not 0: the operation belongs to this plan of the set. All members submit a plan's operations in the
  /// same order, with requests that fit, an all-gather with as many rows on each; it starts at once.
  /// Allreduce, Broadcast or Allgather.
  PlanId plan = 0;
  Request request;
  /// Of a plan: this rank has nothing to give, and says so (Collective::declined).
  bool declines = false;
  /// `element_count(request.shape)` elements. An all-reduce may have input == output; a broadcast
  /// is in place on `output`; the kinds whose outcome is `made` have no output.
  const void* input = nullptr;
  void* output = nullptr;
  /// Of a GPU's memory: the moment from which it may be read and written.
  std::shared_ptr<DeviceEvent> ready;
  /// Of a GPU's memory: what has yet to be copied into `input` first.
  std::vector<DeviceCopy> pack;
  /// Owns all that memory until the operation is done, on the GPU as well.
  std::shared_ptr<void> keepalive;
  /// Null once another submission has taken it over.
  std::shared_ptr<Work> work = std::make_shared<Work>();
  /// Whoever submits it calls `work->wait()` at once, so that no other thread need be woken for it.
  bool awaited = false;
  Clock::time_point submitted = Clock::now();
  /// What it is made of; empty when it is one tensor, the request's.
  std::vector<Part> parts;
  /// Filled in before `work` completes with success, if not null.
  std::shared_ptr<OperationTimes> times;
};

/// Where memory is short, a submission may be lost on its way: its Work says so. (In words that
/// take no memory.)
struct EndSubmission {
  void operator()(Submission* submission) const noexcept;
};

/// It is large, and goes through many hands.
using SubmissionPtr = std::unique_ptr<Submission, EndSubmission>;
SubmissionPtr make_submission(Submission submission);

}  // namespace kolo::core
