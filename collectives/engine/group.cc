#include "engine/group.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "engine/rows.h"

namespace kolo::core {

void Group::pack() {
  if (!plan.fused()) {
    const Submission& submission = *tensors.front().submission;
    const bool reduces = submission.request.kind == CollectiveKind::Allreduce;
    const std::size_t bytes = plan.slices.front().bytes;
    if (reduces && submission.input != submission.output && bytes > 0) {
      std::memcpy(submission.output, submission.input, bytes);
    }
    return;
  }
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const FusionGroup::Slice& slice = plan.slices[i];
    const bool last = i + 1 == tensors.size();
    const std::size_t end = last ? plan.bytes : plan.slices[i + 1].offset;
    std::byte* target = buffer.memory.get() + slice.offset;
    if (slice.bytes > 0) std::memcpy(target, tensors[i].submission->input, slice.bytes);
    // The gap up to the next slice is reduced as well: it must hold numbers.
    std::memset(target + slice.bytes, 0, end - slice.offset - slice.bytes);
  }
}

void Group::unpack() {
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const FusionGroup::Slice& slice = plan.slices[i];
    if (slice.bytes == 0) continue;
    std::memcpy(tensors[i].submission->output, buffer.memory.get() + slice.offset, slice.bytes);
  }
}

Collective describe(const Submission& submission, const Members& members) {
  const Request& request = submission.request;
  return {.kind = request.kind,
          .dtype = request.dtype,
          .ranks = members.ranks,
          .member = members.member,
          .channel = members.channel,
          .declined = submission.declines,
          .device = request.device,
          .op = request.op,
          .prescale = request.prescale,
          .postscale = request.postscale,
          .output = submission.output,
          .count = element_count(request.shape)};
}

Result<Collective> Group::describe(const Members& members, DataPlane& plane, bool timed) {
  Collective collective = core::describe(*tensors.front().submission, members);
  collective.sequence = sequence;
  collective.timed = timed && on_gpu();
  if (plan.fused()) {
    collective.output = buffer.memory.get();
    collective.count = static_cast<std::int64_t>(plan.bytes / size_of(collective.dtype));
  }
  switch (collective.kind) {
    case CollectiveKind::Broadcast: {
      const auto root = std::ranges::find(members.ranks, request().root_rank);
      collective.root_member = static_cast<int>(root - members.ranks.begin());
      break;
    }
    case CollectiveKind::Allgather:
    case CollectiveKind::Reducescatter:
    case CollectiveKind::Alltoall:
      if (Status status = make_output(collective, plane); !status.ok()) return status;
      break;
    case CollectiveKind::Allreduce:
    case CollectiveKind::Barrier:
    case CollectiveKind::AddProcessSet:
      break;
  }
  if (on_gpu()) describe_for_gpu(collective);
  return collective;
}

/// Of the kinds that cut tensors into rows.
Status Group::make_output(Collective& collective, DataPlane& plane) {
  const Request& request = this->request();
  std::vector<std::int64_t>& rows = tensors.front().first_dimensions;
  if (request.kind == CollectiveKind::Reducescatter) {
    rows = slices_of(request, collective.ranks.size());
  }
  describe_rows(request, rows, collective);
  if (request.kind == CollectiveKind::Reducescatter) {
    rows = {rows[static_cast<std::size_t>(collective.member)]};
    const bool scaled_first =
        on_gpu() && request.op == ReduceOp::Product && request.prescale != 1.0;
    if (scaled_first) {
      if (Status s = allocate(plane, collective.count, scratch); !s.ok()) return s;
    }
  }
  if (Status s = allocate(plane, output_count(collective), made); !s.ok()) return s;
  collective.input = tensors.front().submission->input;
  collective.scratch = scratch.get();
  collective.output = made.get();
  return {};
}

/// The host's ordinary memory, as it stays with the user, and peers have nothing to do with it.
Status Group::allocate(DataPlane& plane, std::int64_t elements,
                       std::shared_ptr<void>& memory) const {
  const std::size_t bytes = static_cast<std::size_t>(elements) * size_of(request().dtype);
  Result<std::shared_ptr<std::byte>> allocated =
      on_gpu() ? plane.allocate(DeviceType::Cuda, bytes) : allocate_memory(bytes);
  if (!allocated.ok()) return allocated.status();
  memory = std::move(allocated).value();
  return {};
}

/// What a GPU does besides the operation itself, and after what.
void Group::describe_for_gpu(Collective& collective) const {
  collective.input = tensors.front().submission->input;
  if (plan.fused()) collective.input = collective.output;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const Submission& submission = *tensors[i].submission;
    if (submission.ready != nullptr) collective.ready.push_back(submission.ready);
    if (!plan.fused()) {
      collective.pack = submission.pack;
      continue;
    }
    std::byte* const place = buffer.memory.get() + plan.slices[i].offset;
    const std::int64_t count = element_count(submission.request.shape);
    collective.pack.push_back({submission.input, place, count});
    collective.unpack.push_back({place, submission.output, count});
  }
}

void Group::begin(Clock::time_point now) {
  times.started = now;
  awaits_meeting = std::ranges::any_of(
      tensors, [](const AgreedSubmission& tensor) { return tensor.submission->times != nullptr; });
}

void Group::note_meeting(Clock::time_point looked) {
  if (!operation->missing().empty()) return;
  times.met = looked;
  awaits_meeting = false;
}

void Group::deliver(std::shared_ptr<DeviceEvent> finished) {
  if (std::exchange(delivered, true)) return;
  for (AgreedSubmission& tensor : tensors) {
    if (tensor.submission->times != nullptr) {
      *tensor.submission->times = {.met = times.met, .done = times.unpacked};
    }
    tensor.submission->work->complete({}, {.made = made,
                                           .first_dimensions = std::move(tensor.first_dimensions),
                                           .finished = finished});
  }
}

void Group::fail(const std::string& error) const {
  if (delivered) return;
  for (const AgreedSubmission& tensor : tensors) {
    tensor.submission->work->complete(
        Status::error(fmt::format("{}: {}", label(tensor.submission->request), error)));
  }
}

void Group::record(EngineTrace& trace) const {
  std::vector<const Submission*> submissions;
  for (const AgreedSubmission& tensor : tensors) submissions.push_back(tensor.submission.get());
  std::size_t bytes = 0;
  for (const FusionGroup::Slice& slice : plan.slices) bytes += slice.bytes;
  trace.ran(submissions, bytes, times);
}

}  // namespace kolo::core
