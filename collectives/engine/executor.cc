#include "engine/executor.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <iterator>
#include <limits>
#include <new>
#include <optional>
#include <utility>

#include "engine/rows.h"

namespace kolo::core {
namespace {

/// Operations that one channel has in flight at most. All members start them in the same order, so
/// the oldest unfinished one is in flight everywhere, and the limit cannot stop it.
constexpr std::size_t kMostInFlight = 16;

/// Bytes of fusion buffers that one channel has in flight at most, in units of the threshold.
constexpr std::size_t kMostBuffersInFlight = 4;

}  // namespace

struct Executor::Group {
  std::uint64_t sequence = 0;
  FusionGroup plan;
  /// In the order of the plan's slices.
  std::vector<AgreedSubmission> tensors;
  FusionBuffer buffer;
  std::shared_ptr<void> made;
  std::shared_ptr<void> scratch;
  std::unique_ptr<Operation> operation;
  GroupTimes times;
  /// Its submissions are done, although a GPU may still be at it.
  bool delivered = false;

  bool on_gpu() const { return request().device == DeviceType::Cuda; }
  const Request& request() const { return tensors.front().submission.request; }
  /// Whether somebody wants to know when all members have come, and it is not known yet.
  bool awaits_meeting() const {
    return times.met == Clock::time_point() &&
           std::ranges::any_of(tensors, [](const AgreedSubmission& tensor) {
             return tensor.submission.times != nullptr;
           });
  }
  /// `looked`: when the operation last looked who has come.
  void note_meeting(Clock::time_point looked) {
    if (operation->missing().empty()) times.met = looked;
  }
  std::size_t buffer_bytes() const { return plan.fused() ? plan.bytes : 0; }

  void fail(const std::string& error) const {
    if (delivered) return;
    for (const AgreedSubmission& tensor : tensors) {
      tensor.submission.work->complete(
          Status::error(fmt::format("{}: {}", label(tensor.submission.request), error)));
    }
  }
};

struct Executor::Channel {
  ChannelId id = kWorldChannel;
  std::vector<int> ranks;
  int member = 0;
  std::uint64_t next_sequence = 0;
  std::deque<Group> queued;
  std::vector<Group> in_flight;
  /// Operations that have failed, kept because other members, or the GPU, may still use this rank's
  /// memory.
  std::vector<Group> withdrawn;
  std::size_t buffer_bytes_in_flight = 0;
  /// Operations from this number on fail, for this reason.
  std::uint64_t end = std::numeric_limits<std::uint64_t>::max();
  std::string end_reason;
  bool closed = false;

  bool idle() const { return queued.empty() && in_flight.empty(); }
};

Executor::Executor(DataPlane& plane, std::size_t fusion_threshold, EngineTrace* trace)
    : plane_(plane),
      fusion_threshold_(fusion_threshold),
      trace_(trace),
      host_buffers_(plane, DeviceType::Cpu),
      gpu_buffers_(plane, DeviceType::Cuda) {}

Executor::~Executor() {
  for (auto& [id, channel] : channels_) give_up_withdrawn(channel);
  plane_.drain();
}

void Executor::add_channel(ChannelId channel, std::vector<int> ranks, int member) {
  channels_[channel] = {.id = channel, .ranks = std::move(ranks), .member = member};
}

void Executor::enqueue(ChannelId channel, std::vector<AgreedSubmission> batch) {
  std::vector<const Request*> requests;
  requests.reserve(batch.size());
  for (const AgreedSubmission& agreed : batch) requests.push_back(&agreed.submission.request);
  for (FusionGroup& plan : plan_fusion(requests, fusion_threshold_)) {
    add(channels_.at(channel), std::move(plan), batch);
  }
}

void Executor::add(Channel& channel, FusionGroup plan, std::vector<AgreedSubmission>& batch) {
  Group group;
  group.sequence = channel.next_sequence++;
  for (const FusionGroup::Slice& slice : plan.slices) {
    group.tensors.push_back(std::move(batch[slice.request]));
  }
  group.plan = std::move(plan);
  group.times.agreed = Clock::now();
  if (group.sequence >= channel.end) return group.fail(channel.end_reason);
  channel.queued.push_back(std::move(group));
}

Result<bool> Executor::progress() {
  bool moved = false;
  for (auto& [id, channel] : channels_) {
    while (!channel.queued.empty() && channel.in_flight.size() < kMostInFlight) {
      const std::size_t bytes = channel.queued.front().buffer_bytes();
      const bool too_much =
          channel.buffer_bytes_in_flight + bytes > kMostBuffersInFlight * fusion_threshold_;
      if (too_much && channel.buffer_bytes_in_flight > 0) break;
      Group group = std::move(channel.queued.front());
      channel.queued.pop_front();
      if (Status status = start(channel, std::move(group)); !status.ok()) return status;
      moved = true;
    }
    for (std::size_t i = 0; i < channel.in_flight.size();) {
      Group& group = channel.in_flight[i];
      const bool awaits_meeting = group.awaits_meeting();
      const Clock::time_point looked = awaits_meeting ? Clock::now() : Clock::time_point();
      const Result<Operation::Progress> progress = group.operation->progress();
      if (!progress.ok()) {
        failed_ = {id, group.sequence};
        return progress.status();
      }
      moved |= progress.value() != Operation::Progress::Waiting;
      if (awaits_meeting) group.note_meeting(looked);
      if (std::shared_ptr<DeviceEvent> finished = group.operation->issued();
          finished != nullptr && !group.delivered) {
        group.times.unpacked = Clock::now();
        deliver(group, std::move(finished));
      }
      if (progress.value() != Operation::Progress::Done) {
        ++i;
        continue;
      }
      channel.buffer_bytes_in_flight -= group.buffer_bytes();
      finish(group);
      channel.in_flight.erase(channel.in_flight.begin() + static_cast<std::ptrdiff_t>(i));
      if (channel.in_flight.empty()) give_up_withdrawn(channel);
    }
  }
  drop_closed();
  return moved;
}

Status Executor::start(Channel& channel, Group waiting) {
  // In flight before anything can fail, so that a failure completes it with the rest.
  channel.buffer_bytes_in_flight += waiting.buffer_bytes();
  Group& group = channel.in_flight.emplace_back(std::move(waiting));
  group.times.started = Clock::now();
  if (group.plan.fused()) {
    group.buffer = buffers(group.request().device).take(group.plan.bytes);
  }
  if (!group.on_gpu()) pack(group);
  group.times.packed = Clock::now();
  Collective collective = describe(channel, group);
  collective.sequence = group.sequence;
  Result<std::unique_ptr<Operation>> operation = plane_.start(collective);
  if (!operation.ok()) {
    failed_ = {channel.id, group.sequence};
    return operation.status();
  }
  group.operation = std::move(operation).value();
  if (group.awaits_meeting()) group.note_meeting(group.times.packed);
  return {};
}

FusionBufferPool& Executor::buffers(DeviceType device) {
  switch (device) {
    case DeviceType::Cpu:
      return host_buffers_;
    case DeviceType::Cuda:
      return gpu_buffers_;
  }
  std::abort();
}

void Executor::pack(Group& group) {
  if (!group.plan.fused()) {
    const Submission& submission = group.tensors.front().submission;
    const bool reduces = submission.request.kind == CollectiveKind::Allreduce;
    const std::size_t bytes = group.plan.slices.front().bytes;
    if (reduces && submission.input != submission.output && bytes > 0) {
      std::memcpy(submission.output, submission.input, bytes);
    }
    return;
  }
  for (std::size_t i = 0; i < group.tensors.size(); ++i) {
    const FusionGroup::Slice& slice = group.plan.slices[i];
    const bool last = i + 1 == group.tensors.size();
    const std::size_t end = last ? group.plan.bytes : group.plan.slices[i + 1].offset;
    std::byte* target = group.buffer.memory.get() + slice.offset;
    if (slice.bytes > 0) std::memcpy(target, group.tensors[i].submission.input, slice.bytes);
    // The gap up to the next slice is reduced as well: it must hold numbers.
    std::memset(target + slice.bytes, 0, end - slice.offset - slice.bytes);
  }
}

Collective Executor::describe(const Channel& channel, Group& group) {
  const Submission& submission = group.tensors.front().submission;
  const Request& request = submission.request;
  Collective collective{.kind = request.kind,
                        .dtype = request.dtype,
                        .ranks = channel.ranks,
                        .member = channel.member,
                        .channel = channel.id,
                        .device = request.device,
                        .op = request.op,
                        .prescale = request.prescale,
                        .postscale = request.postscale,
                        .output = submission.output,
                        .count = element_count(request.shape)};
  if (group.plan.fused()) {
    collective.output = group.buffer.memory.get();
    collective.count = static_cast<std::int64_t>(group.plan.bytes / size_of(request.dtype));
  }
  switch (request.kind) {
    case CollectiveKind::Broadcast: {
      const auto root = std::ranges::find(channel.ranks, request.root_rank);
      collective.root_member = static_cast<int>(root - channel.ranks.begin());
      break;
    }
    case CollectiveKind::Allgather:
    case CollectiveKind::Reducescatter:
    case CollectiveKind::Alltoall:
      make_output(group, collective);
      break;
    case CollectiveKind::Allreduce:
    case CollectiveKind::Barrier:
    case CollectiveKind::AddProcessSet:
      break;
  }
  if (group.on_gpu()) describe_for_gpu(group, collective);
  return collective;
}

/// Of the kinds that cut tensors into rows.
void Executor::make_output(Group& group, Collective& collective) {
  const Request& request = group.request();
  std::vector<std::int64_t>& rows = group.tensors.front().response.first_dimensions;
  if (request.kind == CollectiveKind::Reducescatter) {
    rows = slices_of(request, collective.ranks.size());
  }
  describe_rows(request, rows, collective);
  if (request.kind == CollectiveKind::Reducescatter) {
    rows = {rows[static_cast<std::size_t>(collective.member)]};
    const bool scaled_first = group.on_gpu() && request.prescale != 1.0;
    if (scaled_first) group.scratch = allocate(group, collective.count);
  }
  group.made = allocate(group, output_count(collective));
  collective.input = group.tensors.front().submission.input;
  collective.scratch = group.scratch.get();
  collective.output = group.made.get();
}

/// The host's ordinary memory, as it stays with the user, and peers have nothing to do with it.
std::shared_ptr<void> Executor::allocate(const Group& group, std::int64_t elements) {
  const Request& request = group.request();
  const std::size_t bytes = static_cast<std::size_t>(elements) * size_of(request.dtype);
  std::shared_ptr<void> memory =
      group.on_gpu() ? plane_.allocate(request.device, bytes) : allocate_memory(bytes);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

/// What a GPU does besides the operation itself, and after what.
void Executor::describe_for_gpu(const Group& group, Collective& collective) const {
  collective.timed = trace_ != nullptr;
  collective.input = group.tensors.front().submission.input;
  if (group.plan.fused()) collective.input = collective.output;
  for (std::size_t i = 0; i < group.tensors.size(); ++i) {
    const Submission& submission = group.tensors[i].submission;
    if (submission.ready != nullptr) collective.ready.push_back(submission.ready);
    if (!group.plan.fused()) {
      collective.pack = submission.pack;
      continue;
    }
    std::byte* const place = group.buffer.memory.get() + group.plan.slices[i].offset;
    const std::int64_t count = element_count(submission.request.shape);
    collective.pack.push_back({submission.input, place, count});
    collective.unpack.push_back({place, submission.output, count});
  }
}

void Executor::unpack(Group& group) {
  for (std::size_t i = 0; i < group.tensors.size(); ++i) {
    const FusionGroup::Slice& slice = group.plan.slices[i];
    if (slice.bytes == 0) continue;
    std::memcpy(group.tensors[i].submission.output, group.buffer.memory.get() + slice.offset,
                slice.bytes);
  }
}

void Executor::finish(Group& group) {
  group.times.reduced = Clock::now();
  const std::optional<DeviceTimes> device_times = group.operation->device_times();
  group.operation.reset();
  if (group.plan.fused()) {
    if (!group.on_gpu()) unpack(group);
    buffers(group.request().device).give_back(std::move(group.buffer));
  }
  group.times.unpacked = Clock::now();
  if (device_times) group.times.follow(*device_times);
  if (trace_ != nullptr) record(group);
  if (!group.delivered) deliver(group, /*finished=*/nullptr);
}

void Executor::deliver(Group& group, std::shared_ptr<DeviceEvent> finished) {
  group.delivered = true;
  for (AgreedSubmission& tensor : group.tensors) {
    if (tensor.submission.times != nullptr) {
      *tensor.submission.times = {.met = group.times.met, .done = group.times.unpacked};
    }
    tensor.submission.work->complete(
        {}, {.made = group.made,
             .first_dimensions = std::move(tensor.response.first_dimensions),
             .finished = finished});
  }
}

void Executor::record(const Group& group) const {
  std::vector<const Submission*> submissions;
  for (const AgreedSubmission& tensor : group.tensors) submissions.push_back(&tensor.submission);
  std::size_t bytes = 0;
  for (const FusionGroup::Slice& slice : group.plan.slices) bytes += slice.bytes;
  trace_->ran(submissions, bytes, group.times);
}

bool Executor::idle() const {
  return std::ranges::all_of(channels_, [](const auto& entry) { return entry.second.idle(); });
}

void Executor::fail(const std::string& error) {
  for (auto& [id, channel] : channels_) {
    for (const Group& group : channel.queued) group.fail(error);
    channel.queued.clear();
    withdraw(channel, channel.in_flight.begin(), error);
  }
}

/// Fails what is in flight from `first` on.
void Executor::withdraw(Channel& channel, std::vector<Group>::iterator first,
                        const std::string& error) {
  for (auto group = first; group != channel.in_flight.end(); ++group) {
    group->fail(error);
    channel.buffer_bytes_in_flight -= group->buffer_bytes();
    channel.withdrawn.push_back(std::move(*group));
  }
  channel.in_flight.erase(first, channel.in_flight.end());
  if (channel.in_flight.empty()) give_up_withdrawn(channel);
}

/// A GPU would wait for its peers for ever. Not before earlier operations of the channel are done,
/// which would be given up with it.
void Executor::give_up_withdrawn(Channel& channel) {
  for (Group& group : channel.withdrawn) {
    if (group.on_gpu()) group.operation.reset();
  }
}

bool Executor::failure_is_moot() const {
  const auto channel = channels_.find(failed_.first);
  return channel != channels_.end() && failed_.second >= channel->second.end;
}

bool Executor::contains(ChannelId channel) const { return channels_.contains(channel); }

std::vector<PlanProgress> Executor::enqueued() const {
  std::vector<PlanProgress> progress;
  for (const auto& [id, channel] : channels_) progress.push_back({id, channel.next_sequence});
  return progress;
}

void Executor::end(ChannelId id, std::uint64_t operations, const std::string& reason) {
  Channel& channel = channels_.at(id);
  if (operations >= channel.end) return;
  channel.end = operations;
  channel.end_reason = reason;
  const auto ended = [operations](const Group& group) { return group.sequence >= operations; };
  for (const Group& group : channel.queued) {
    if (ended(group)) group.fail(reason);
  }
  std::erase_if(channel.queued, ended);
  // Not from std::ranges, whose subrange clang 14 does not compile.
  withdraw(
      channel,
      std::stable_partition(channel.in_flight.begin(), channel.in_flight.end(), std::not_fn(ended)),
      reason);
}

void Executor::close(ChannelId id) {
  if (const auto found = channels_.find(id); found != channels_.end()) found->second.closed = true;
}

void Executor::drop_closed() {
  for (auto entry = channels_.begin(); entry != channels_.end();) {
    Channel& channel = entry->second;
    const bool over = channel.closed && channel.idle();
    if (over) {
      std::ranges::move(channel.withdrawn, std::back_inserter(withdrawn_));
      plane_.end_channel(channel.id);
    }
    entry = over ? channels_.erase(entry) : std::next(entry);
  }
}

std::vector<Executor::Stall> Executor::stalled(Clock::time_point now,
                                               std::chrono::duration<double> age) const {
  std::vector<Stall> stalls;
  for (const auto& [id, channel] : channels_) {
    if (channel.in_flight.empty()) continue;
    const Group& group = channel.in_flight.front();
    if (now - group.times.started < age) continue;
    Stall stall{.operation = label(group.request()), .age = now - group.times.started};
    const std::vector<int> missing = group.operation->missing();
    for (int member = 0; member < std::ssize(channel.ranks); ++member) {
      const bool absent = std::ranges::find(missing, member) != missing.end();
      (absent ? stall.missing : stall.present)
          .push_back(channel.ranks[static_cast<std::size_t>(member)]);
    }
    if (!stall.missing.empty()) stalls.push_back(std::move(stall));
  }
  return stalls;
}

}  // namespace kolo::core
