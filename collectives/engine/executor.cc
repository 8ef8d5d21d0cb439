#include "engine/executor.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <functional>
#include <iterator>
#include <limits>
#include <optional>
#include <thread>
#include <utility>

namespace kolo::core {
namespace {

/// Operations that one channel has in flight at most. All members start them in the same order, so
/// the oldest unfinished one is in flight everywhere, and the limit cannot stop it.
constexpr std::size_t kMostInFlight = 16;

/// Bytes of fusion buffers that one channel has in flight at most, in units of the threshold.
constexpr std::size_t kMostBuffersInFlight = 4;

}  // namespace

struct Executor::Channel {
  Members members;
  std::uint64_t next_sequence = 0;
  std::deque<Group> queued;
  std::vector<Group> in_flight;
  /// The latest that was run at once, and is done.
  std::unique_ptr<Operation> standing;
  /// Operations that have failed, kept because other members, or the GPU, may still use this rank's
  /// memory.
  std::vector<Group> withdrawn;
  std::size_t buffer_bytes_in_flight = 0;
  /// Operations from this number on fail, for this reason.
  std::uint64_t end = std::numeric_limits<std::uint64_t>::max();
  std::string end_reason;

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
  channels_[channel] = {.members = {channel, std::move(ranks), member}};
}

void Executor::enqueue(ChannelId channel, std::vector<AgreedSubmission> batch) {
  std::vector<const Request*> requests;
  requests.reserve(batch.size());
  for (const AgreedSubmission& agreed : batch) requests.push_back(&agreed.submission->request);
  for (FusionGroup& plan : plan_fusion(requests, fusion_threshold_)) {
    add(channels_.at(channel), std::move(plan), batch);
  }
}

Result<Executor::RunNow> Executor::run_now(ChannelId id, const BlockingAllreduce& allreduce,
                                           Looks looks) {
  const auto found = channels_.find(id);
  if (found == channels_.end() || !idle()) return RunNow();
  Channel& channel = found->second;
  if (channel.next_sequence >= channel.end) return RunNow();
  const std::uint64_t sequence = channel.next_sequence++;
  failed_ = {id, sequence};
  std::optional<Group> group;
  if (trace_ != nullptr) {
    group = alone(sequence, make_submission(allreduce.submission()));
  }
  if (Status status = start_now(channel, sequence, allreduce); !status.ok()) return status;
  for (int look = 0; look < looks.most; ++look) {
    if (looks.gives_way && look > 0) std::this_thread::yield();
    const Result<Operation::Progress> progress = channel.standing->progress();
    if (!progress.ok()) {
      channel.standing.reset();
      return progress.status();
    }
    if (progress.value() != Operation::Progress::Done) continue;
    if (channel.standing->declined()) {
      close(id);
      return RunNow{RunNow::State::Declined};
    }
    if (group) {
      group->times.reduced = group->times.unpacked = Clock::now();
      group->record(*trace_);
    }
    return RunNow{RunNow::State::Done};
  }
  // If there is no memory for it, the operation goes before the caller's tensor can.
  std::unique_ptr<Operation> operation = std::move(channel.standing);
  if (!group) group = alone(sequence, make_submission(allreduce.submission()));
  RunNow late{RunNow::State::Late, group->tensors.front().submission->work};
  group->operation = std::move(operation);
  group->stands = true;
  channel.in_flight.push_back(std::move(*group));
  mark_busy(channel);
  return late;
}

/// With the operation before, if that can be had again: it has all that this one needs.
Status Executor::start_now(Channel& channel, std::uint64_t sequence,
                           const BlockingAllreduce& allreduce) {
  if (channel.standing != nullptr && channel.standing->begin_again(sequence, allreduce.memory)) {
    return {};
  }
  Collective collective = describe(allreduce.submission(), channel.members);
  collective.sequence = sequence;
  StartedOperation operation = plane_.start(collective);
  if (!operation.ok()) return operation.status();
  channel.standing = std::move(operation).value();
  return {};
}

/// The group of a submission that has been started by itself, in place.
Group Executor::alone(std::uint64_t sequence, SubmissionPtr submission) const {
  Group group{.sequence = sequence};
  const Request* const request = &submission->request;
  group.plan = std::move(plan_fusion({&request, 1}, fusion_threshold_).front());
  group.times.agreed = group.times.started = group.times.packed = submission->submitted;
  group.tensors.push_back({std::move(submission), {}});
  return group;
}

void Executor::mark_busy(Channel& channel) {
  if (std::ranges::find(busy_, &channel) == busy_.end()) busy_.push_back(&channel);
}

void Executor::add(Channel& channel, FusionGroup plan, std::vector<AgreedSubmission>& batch) {
  Group group;
  group.sequence = channel.next_sequence++;
  group.tensors.reserve(plan.slices.size());
  for (const FusionGroup::Slice& slice : plan.slices) {
    group.tensors.push_back(std::move(batch[slice.request]));
  }
  group.plan = std::move(plan);
  group.times.agreed = Clock::now();
  if (group.sequence >= channel.end) return give_up(group, channel.end_reason);
  mark_busy(channel);
  channel.queued.push_back(std::move(group));
}

Result<bool> Executor::progress() {
  bool moved = false;
  for (Channel* const channel : busy_) {
    const Result<bool> progress = this->progress(*channel);
    if (!progress.ok()) return progress;
    moved |= progress.value();
  }
  std::erase_if(busy_, [](const Channel* channel) { return channel->idle(); });
  drop_closed();
  return moved;
}

Result<bool> Executor::progress(Channel& channel) {
  bool moved = false;
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
    const bool awaits_meeting = group.awaits_meeting;
    const Clock::time_point looked = awaits_meeting ? Clock::now() : Clock::time_point();
    const Result<Operation::Progress> progress = group.operation->progress();
    if (!progress.ok()) {
      failed_ = {channel.members.channel, group.sequence};
      return progress.status();
    }
    moved |= progress.value() != Operation::Progress::Waiting;
    if (awaits_meeting) group.note_meeting(looked);
    if (std::shared_ptr<DeviceEvent> finished = group.operation->issued();
        finished != nullptr && !group.delivered) {
      group.times.unpacked = Clock::now();
      group.deliver(std::move(finished));
    }
    if (progress.value() != Operation::Progress::Done) {
      ++i;
      continue;
    }
    channel.buffer_bytes_in_flight -= group.buffer_bytes();
    finish(channel, group);
    channel.in_flight.erase(channel.in_flight.begin() + static_cast<std::ptrdiff_t>(i));
    if (channel.in_flight.empty()) give_up_withdrawn(channel);
  }
  return moved;
}

Status Executor::start(Channel& channel, Group waiting) {
  // In flight before anything can fail, so that a failure completes it with the rest.
  channel.buffer_bytes_in_flight += waiting.buffer_bytes();
  Group& group = channel.in_flight.emplace_back(std::move(waiting));
  group.begin(Clock::now());
  Status status = start_operation(channel.members, group);
  if (!status.ok()) failed_ = {channel.members.channel, group.sequence};
  return status;
}

Status Executor::start_operation(const Members& members, Group& group) {
  if (group.plan.fused()) {
    Result<FusionBuffer> buffer = buffers(group.request().device).take(group.plan.bytes);
    if (!buffer.ok()) return buffer.status();
    group.buffer = std::move(buffer).value();
  }
  if (!group.on_gpu()) group.pack();
  group.times.packed = Clock::now();
  const Result<Collective> collective =
      group.describe(members, plane_, /*timed=*/trace_ != nullptr);
  if (!collective.ok()) return collective.status();
  StartedOperation operation = plane_.start(collective.value());
  if (!operation.ok()) return operation.status();
  group.operation = std::move(operation).value();
  if (group.awaits_meeting) group.note_meeting(group.times.packed);
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

void Executor::finish(Channel& channel, Group& group) {
  if (group.operation->declined()) {
    // Of a plan that all leave now, and whose operations are not fused.
    close(channel.members.channel);
    declined_.push_back(std::move(group.tensors.front().submission));
    return;
  }
  group.times.reduced = Clock::now();
  const std::optional<DeviceTimes> device_times = group.operation->device_times();
  if (group.stands) channel.standing = std::move(group.operation);
  group.operation.reset();
  if (group.plan.fused()) {
    if (!group.on_gpu()) group.unpack();
    buffers(group.request().device).give_back(std::move(group.buffer));
  }
  group.times.unpacked = Clock::now();
  if (device_times) group.times.follow(*device_times);
  if (trace_ != nullptr) group.record(*trace_);
  group.deliver(/*finished=*/nullptr);
}

bool Executor::idle() const {
  return declined_.empty() && std::ranges::all_of(busy_, &Channel::idle);
}

void Executor::fail(const std::string& error) {
  for (auto& [id, channel] : channels_) {
    for (const Group& group : channel.queued) group.fail(error);
    channel.queued.clear();
    withdraw(channel, channel.in_flight.begin(), error);
  }
  for (const SubmissionPtr& submission : take_declined()) {
    submission->work->complete(
        Status::error(fmt::format("{}: {}", label(submission->request), error)));
  }
}

void Executor::give_up(Group& group, const std::string& reason) {
  if (!reason.empty()) return group.fail(reason);
  // The group keeps its own: other members may still use this memory.
  Submission& given_up = *group.tensors.front().submission;
  SubmissionPtr again = make_submission(given_up);
  given_up.work.reset();
  declined_.push_back(std::move(again));
}

/// Fails what is in flight from `first` on.
void Executor::withdraw(Channel& channel, std::vector<Group>::iterator first,
                        const std::string& error) {
  for (auto group = first; group != channel.in_flight.end(); ++group) {
    give_up(*group, error);
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
  for (const auto& [id, channel] : channels_) {
    if (std::ranges::find(closed_, id) == closed_.end()) progress.push_back({id, channel.next_sequence});
  }
  return progress;
}

std::optional<Executor::Place> Executor::find(const Work* work) const {
  std::optional<Place> place;
  const auto look_in = [&](ChannelId id, const auto& groups) {
    for (const Group& group : groups) {
      for (const AgreedSubmission& tensor : group.tensors) {
        if (group.delivered || tensor.submission->work.get() != work) continue;
        place = {id, group.sequence, &tensor.submission->request};
      }
    }
  };
  for (const auto& [id, channel] : channels_) {
    look_in(id, channel.queued);
    look_in(id, channel.in_flight);
  }
  return place;
}

void Executor::end(ChannelId id, std::uint64_t operations, const std::string& reason) {
  Channel& channel = channels_.at(id);
  if (operations >= channel.end) return;
  channel.end = operations;
  channel.end_reason = reason;
  const auto ended = [operations](const Group& group) { return group.sequence >= operations; };
  for (Group& group : channel.queued) {
    if (ended(group)) give_up(group, reason);
  }
  std::erase_if(channel.queued, ended);
  // Not from std::ranges, whose subrange clang 14 does not compile.
  withdraw(
      channel,
      std::stable_partition(channel.in_flight.begin(), channel.in_flight.end(), std::not_fn(ended)),
      reason);
}

void Executor::close(ChannelId id) {
  if (channels_.contains(id)) closed_.push_back(id);
}

void Executor::drop_closed() {
  std::erase_if(closed_, [this](ChannelId id) {
    Channel& channel = channels_.at(id);
    if (!channel.idle()) return false;
    std::ranges::move(channel.withdrawn, std::back_inserter(withdrawn_));
    plane_.end_channel(id);
    channels_.erase(id);
    return true;
  });
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
    for (int member = 0; member < std::ssize(channel.members.ranks); ++member) {
      const bool absent = std::ranges::find(missing, member) != missing.end();
      (absent ? stall.missing : stall.present)
          .push_back(channel.members.ranks[static_cast<std::size_t>(member)]);
    }
    if (!stall.missing.empty()) stalls.push_back(std::move(stall));
  }
  return stalls;
}

}  // namespace kolo::core
