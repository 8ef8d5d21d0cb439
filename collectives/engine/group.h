#pragma once

/// Submissions that run as one operation: where their bytes are before it, in it, and after it.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "data/data_plane.h"
#include "engine/engine_trace.h"
#include "engine/fusion_buffer.h"
#include "engine/fusion_planner.h"
#include "engine/work.h"

namespace kolo::core {

/// A submission that all ranks have agreed to run.
struct AgreedSubmission {
  SubmissionPtr submission;
  /// As in Response.
  std::vector<std::int64_t> first_dimensions;
};

/// Who takes part in a channel's operations: global ranks, of which this one is number `member`.
struct Members {
  ChannelId channel = kWorldChannel;
  std::vector<int> ranks;
  int member = 0;
};

/// The operation of one submission, in place.
Collective describe(const Submission& submission, const Members& members);

/// On the host, it packs before the operation and unpacks after it. A GPU does both as parts of the
/// operation.
struct Group {
  std::uint64_t sequence = 0;
  FusionGroup plan;
  /// In the order of the plan's slices.
  std::vector<AgreedSubmission> tensors;
  /// If it is fused.
  FusionBuffer buffer;
  /// The result, of kinds that make theirs; and what a GPU needs on the way.
  std::shared_ptr<void> made;
  std::shared_ptr<void> scratch;
  std::unique_ptr<Operation> operation;
  /// The next operation of the channel may have that one again.
  bool stands = false;
  GroupTimes times;
  /// Somebody wants to know when all members have come, and it is not known yet.
  bool awaits_meeting = false;
  /// Its submissions are done, although a GPU may still be at it.
  bool delivered = false;

  const Request& request() const { return tensors.front().submission->request; }
  bool on_gpu() const { return request().device == DeviceType::Cuda; }
  std::size_t buffer_bytes() const { return plan.fused() ? plan.bytes : 0; }

  void pack();
  void unpack();

  /// Takes the memory of its result from `plane`.
  Result<Collective> describe(const Members& members, DataPlane& plane, bool timed);

  /// Its operation is about to begin.
  void begin(Clock::time_point now);
  /// `looked`: when the operation last looked who has come.
  void note_meeting(Clock::time_point looked);

  /// Completes its submissions, unless they are. `finished`: when a GPU will have run it.
  void deliver(std::shared_ptr<DeviceEvent> finished);
  void fail(const std::string& error) const;

  void record(EngineTrace& trace) const;

 private:
  Status make_output(Collective& collective, DataPlane& plane);
  Status allocate(DataPlane& plane, std::int64_t elements, std::shared_ptr<void>& memory) const;
  void describe_for_gpu(Collective& collective) const;
};

}  // namespace kolo::core
