#include "data/nccl_channel.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <utility>

namespace kolo::core {
namespace {

/// An anchor serves for this time: CUDA tells times between events in float32.
constexpr auto kAnchorHolds = std::chrono::seconds(10);

/// Of the meeting: lanes, and hosts whose members meet among themselves, differ beyond the bits that
/// tell operations apart.
std::uint64_t number_of_meeting(const Collective& first) {
  constexpr int kRankShift = 32;
  constexpr int kLaneShift = 56;
  return first.sequence + (static_cast<std::uint64_t>(first.ranks.front()) << kRankShift) +
         (static_cast<std::uint64_t>(first.lane) << kLaneShift);
}

}  // namespace

NcclChannel::NcclChannel(const Setup& setup, const Collective& first)
    : setup_(setup),
      ranks_(first.ranks),
      member_(first.member),
      meeting_{.kind = CollectiveKind::Allgather,
               .dtype = DataType::UInt8,
               .ranks = first.ranks,
               .member = first.member,
               .channel = first.channel,
               .sequence = number_of_meeting(first)},
      members_(first.ranks.size()) {}

// ---- connecting ----

Result<bool> NcclChannel::open() {
  if (!failure_.ok()) return failure_;
  if (open_) return true;
  Result<bool> opened = advance();
  if (!opened.ok()) return fail(opened.status());
  if (!opened.value() && Clock::now() - began_ > setup_.connect_within) {
    return fail(late());
  }
  open_ = opened.value();
  return opened;
}

Result<bool> NcclChannel::advance() {
  if (!stream_) {
    Result<cuda::Stream> stream = cuda::Stream::create_urgent();
    if (!stream.ok()) return stream.status();
    stream_ = std::move(stream).value();
  }
  if (alone()) return true;
  if (!communicator_) {
    if (gathering_ == nullptr) {
      if (Status status = meet(); !status.ok()) return status;
    }
    const Result<Operation::Progress> met = gathering_->progress();
    if (!met.ok()) return met.status();
    if (met.value() != Operation::Progress::Done) return false;
    if (Status status = connect(); !status.ok()) return status;
  }
  return communicator_->settled();
}

Status NcclChannel::meet() {
  own_ = introduce(setup_.device, member_ == 0);
  constexpr auto kBytes = static_cast<std::int64_t>(sizeof(NcclIntroduction));
  meeting_.input = &own_;
  meeting_.output = members_.data();
  meeting_.counts.assign(members_.size(), kBytes);
  meeting_.count = kBytes * std::ssize(members_);
  StartedOperation gathering = setup_.host.start(meeting_);
  if (!gathering.ok()) return gathering.status();
  gathering_ = std::move(gathering).value();
  return {};
}

Status NcclChannel::connect() {
  if (Status status = can_connect(members_, ranks_, setup_.gpus_are_shared); !status.ok()) {
    return status;
  }
  Result<cuda::Communicator> communicator = cuda::Communicator::connect(
      members_.front().id, static_cast<int>(members_.size()), member_, setup_.end_within);
  if (!communicator.ok()) return communicator.status();
  communicator_.emplace(std::move(communicator).value());
  return {};
}

Status NcclChannel::late() const {
  std::vector<int> absent;
  for (const int member : missing()) absent.push_back(ranks_[static_cast<std::size_t>(member)]);
  return Status::error(fmt::format(
      "connecting ranks {} by NCCL took longer than {} s{}", fmt::join(ranks_, ", "),
      setup_.connect_within.count(),
      absent.empty() ? "" : fmt::format("; nothing has come from {}", fmt::join(absent, ", "))));
}

std::vector<int> NcclChannel::missing() const {
  return gathering_ == nullptr || communicator_ ? std::vector<int>() : gathering_->missing();
}

// ---- connected ----

Result<bool> NcclChannel::settled() {
  if (!failure_.ok()) return failure_;
  if (alone()) return true;
  Result<bool> settled = communicator_->settled();
  return settled.ok() ? settled : fail(settled.status());
}

Status NcclChannel::know(const void* address) {
  const std::optional<cuda::Memory::Block> block = setup_.memory->find(address);
  if (!block || known_.contains(block->begin)) return {};
  const Result<void*> handle = communicator_->know(block->begin, block->bytes);
  if (!handle.ok()) return handle.status();
  known_[block->begin] = handle.value();
  return {};
}

bool NcclChannel::forget(const cuda::Memory::Block& block) {
  if (!known_.contains(block.begin)) return true;
  // With its communicator NCCL forgets everything.
  if (ending_) return ending_->over();
  const Result<bool> settled = this->settled();
  if (!settled.ok()) return true;  // it is aborted
  if (!settled.value()) return false;
  const Status status = communicator_->forget(known_.at(block.begin));
  if (status.ok()) {
    known_.erase(block.begin);
  } else {
    (void)fail(status);
  }
  return true;
}

void NcclChannel::remove(const std::shared_ptr<cuda::Fate>& operation) {
  std::erase(operations_, operation);
  end_if_idle();
}

void NcclChannel::end() {
  over_ = true;
  end_if_idle();
}

void NcclChannel::end_if_idle() {
  if (!over_ || !idle() || !communicator_) return;
  ending_.emplace(std::move(*communicator_), setup_.device);
  communicator_.reset();
}

void NcclChannel::drain() const {
  if (stream_) (void)cudaStreamSynchronize(stream());
}

Status NcclChannel::fail(const Status& failure) {
  if (!failure_.ok()) return failure_;
  failure_ = failure;
  // Before the GPU can be through with them.
  for (const auto& operation : operations_) operation->fail(failure.message());
  if (communicator_) communicator_->abort();
  communicator_.reset();
  known_.clear();
  gathering_.reset();
  return failure_;
}

Status NcclChannel::compare_clocks() {
  if (anchor_ != nullptr) return {};
  const Result<std::shared_ptr<cuda::Event>> now = cuda::Event::record(stream(), {.timed = true});
  if (!now.ok()) return now.status();
  // The stream is still empty.
  if (Status status = now.value()->synchronize(); !status.ok()) return status;
  anchor_ = now.value();
  anchor_time_ = Clock::now();
  return {};
}

Result<std::chrono::steady_clock::time_point> NcclChannel::time_of(
    const std::shared_ptr<cuda::Event>& event) {
  const Result<std::chrono::nanoseconds> since = event->since(*anchor_);
  if (!since.ok()) return since.status();
  const Clock::time_point time = anchor_time_ + since.value();
  if (since.value() > kAnchorHolds) {
    anchor_ = event;
    anchor_time_ = time;
  }
  return time;
}

}  // namespace kolo::core
