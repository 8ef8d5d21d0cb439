#include "data/shm_operations.h"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>
#include <utility>

#include "data/well_formed.h"

namespace kolo::core {

StartedOperation ShmOperation::begin(std::unique_ptr<ShmOperation> operation) {
  const Result<Progress> progress = operation->progress();
  if (!progress.ok()) return progress.status();
  return std::unique_ptr<Operation>(std::move(operation));
}

ShmOperation::ShmOperation(const ShmSetup& setup, const Collective& collective)
    : setup_(setup),
      collective_(collective),
      told_(&setup.exchange.about({collective.channel, collective.sequence})) {
  for (const int rank : collective_.ranks) locals_.push_back(*setup_.host.local_rank(rank));
  for (int i = 1; i < members(); ++i) peers_.push_back((self() + i) % members());
}

ShmOperation::~ShmOperation() {
  if (done_) return;
  // Who has not heard of it yet may still use the memory.
  setup_.host.own().retire();
  for (const int member : peers_) {
    setup_.exchange.give_up(local_of(member), signal(ShmSignal::Kind::GaveUp));
  }
  setup_.exchange.forget({collective_.channel, collective_.sequence});
}

void ShmOperation::reset(std::uint64_t sequence, void* output) {
  collective_.sequence = sequence;
  collective_.output = output;
  told_ = &setup_.exchange.about({collective_.channel, sequence});
  declined_ = finished_ = done_ = false;
}

std::vector<int> ShmOperation::missing() const {
  std::vector<int> missing;
  if (done_) return missing;
  for (const int member : peers_) {
    if (!told_by(member).arrived) missing.push_back(member);
  }
  return missing;
}

Result<Operation::Progress> ShmOperation::progress() {
  if (done_) return Progress::Done;
  setup_.exchange.listen();
  if (told_->any_gave_up) {
    for (const int member : peers_) {
      if (told_by(member).gave_up) return lost(member);
    }
  }
  if (!finished_) {
    const Result<Progress> advanced = advance();
    if (!advanced.ok() || advanced.value() == Progress::Moved) return advanced;
    finished_ = advanced.value() == Progress::Done;
  }
  if (!finished_ || telling()) return wait();
  done_ = true;
  setup_.exchange.forget({collective_.channel, collective_.sequence});
  if (stage_ != nullptr) setup_.stages.give_back(std::move(stage_));
  return Progress::Done;
}

Result<Operation::Progress> ShmOperation::wait() const {
  if (!setup_.exchange.any_broken_off()) return Progress::Waiting;
  for (const int member : peers_) {
    if (setup_.exchange.broken_off(local_of(member))) return lost(member);
  }
  return Progress::Waiting;
}

Status ShmOperation::lost(int member) const {
  return Status::error(fmt::format("rank {} gave up operation {} of channel {}",
                                   collective_.ranks[static_cast<std::size_t>(member)],
                                   collective_.sequence, collective_.channel));
}

std::int64_t ShmOperation::bytes_of(std::int64_t count) const {
  return count * static_cast<std::int64_t>(size_of(collective_.dtype));
}

const ShmMember& ShmOperation::told_by(int member) const {
  return told_->each[static_cast<std::size_t>(local_of(member))];
}

std::byte* ShmOperation::at(int member, std::uint64_t place, std::int64_t bytes) const {
  std::byte* const memory =
      setup_.host.at(local_of(member), place, static_cast<std::size_t>(bytes));
  assert(memory != nullptr);
  return memory;
}

std::uint64_t ShmOperation::place_of(const std::byte* own) const {
  return *setup_.host.own().offset_of(own, 0);
}

ShmSignal ShmOperation::signal(ShmSignal::Kind kind) const {
  return {.kind = kind, .channel = collective_.channel, .sequence = collective_.sequence};
}

void ShmOperation::tell(int member, ShmSignal::Kind kind, std::uint64_t place) const {
  ShmSignal told = signal(kind);
  told.place = place;
  setup_.exchange.tell(local_of(member), told);
}

void ShmOperation::tell_quietly(int member, ShmSignal::Kind kind) const {
  setup_.exchange.tell_quietly(local_of(member), signal(kind));
}

void ShmOperation::tell_result(int member, std::span<const std::byte> result) const {
  setup_.exchange.tell(local_of(member), signal(ShmSignal::Kind::FinishedWithPayload), result);
}

void ShmOperation::announce(std::span<const int> to, const void* memory, std::int64_t bytes) const {
  const auto size = static_cast<std::size_t>(bytes);
  std::span<const std::byte> payload;
  ShmSignal arrival = signal(ShmSignal::Kind::ArrivedStaged);
  arrival.bytes = size;
  if (collective_.declined) {
    arrival.kind = ShmSignal::Kind::ArrivedDeclining;
  } else if (bytes <= setup_.options.flat_bytes) {
    arrival.kind = ShmSignal::Kind::ArrivedWithPayload;
    payload = {static_cast<const std::byte*>(memory), size};
  } else if (const auto place = setup_.host.own().offset_of(memory, size)) {
    arrival.kind = ShmSignal::Kind::ArrivedDirect;
    arrival.place = *place;
  }
  for (const int member : to) {
    setup_.exchange.tell(local_of(member), arrival, payload);
  }
}

bool ShmOperation::all_have_arrived() const { return told_->arrived == std::ssize(peers_); }

bool ShmOperation::any_declines() {
  declined_ = collective_.declined || std::ranges::any_of(peers_, [this](int member) {
                return told_by(member).declined;
              });
  return declined_;
}

Status ShmOperation::check_arrival(int member, std::int64_t bytes) const {
  const ShmMember& other = told_by(member);
  if (other.bytes == static_cast<std::uint64_t>(bytes)) return {};
  return Status::error(fmt::format(
      "ranks started different operations as number {} of channel {}: rank {} expects {} bytes of "
      "rank {}, which brings {}",
      collective_.sequence, collective_.channel, rank_of(collective_), bytes,
      collective_.ranks[static_cast<std::size_t>(member)], other.bytes));
}

std::byte* ShmOperation::stage() {
  if (stage_ == nullptr) stage_ = setup_.stages.take();
  return stage_.get();
}

bool ShmOperation::telling() const {
  return setup_.exchange.telling() &&
         std::ranges::any_of(locals_, [this](int local) { return setup_.exchange.telling(local); });
}

}  // namespace kolo::core
