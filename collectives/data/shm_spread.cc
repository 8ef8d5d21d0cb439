#include "data/shm_spread.h"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>
#include <cstring>
#include <utility>

#include "data/stream_copy.h"

namespace kolo::core {

ShmSpread::Slots ShmSpread::share_for(std::size_t peer) const {
  // A multiple of every element's size.
  constexpr std::int64_t kWidest = 8;
  const std::int64_t share = setup().options.chunk_bytes / std::ssize(peers());
  const std::int64_t chunk = share - share % kWidest;
  assert(chunk > 0);
  return {static_cast<std::int64_t>(peer) * kSlots * chunk, chunk};
}

const std::byte* ShmSpread::filled_by(int giver, std::int64_t step, std::int64_t chunk) const {
  return at(giver, told_by(giver).filled_place, kSlots * chunk) + step % kSlots * chunk;
}

Operation::Progress ShmSpread::both(Progress one, Progress other) {
  if (one == Progress::Moved || other == Progress::Moved) return Progress::Moved;
  return one == Progress::Done ? other : one;
}

ShmSpread::Giver::Giver(ShmSpread& operation, const void* from, std::int64_t bytes,
                        std::vector<int> takers, const Slots& slots)
    : operation_(operation),
      from_(static_cast<const std::byte*>(from)),
      bytes_(bytes),
      takers_(std::move(takers)),
      slots_(slots) {
  const ShmSetup& setup = operation_.setup();
  operation_.announce(takers_, from_, bytes_);
  if (bytes_ <= setup.options.flat_bytes || takers_.empty()) return;
  const bool direct =
      setup.host.own().offset_of(from_, static_cast<std::size_t>(bytes_)).has_value();
  steps_ = direct ? 1 : (bytes_ + slots_.chunk - 1) / slots_.chunk;
  filled_ = direct ? 1 : 0;
}

Result<Operation::Progress> ShmSpread::Giver::advance() {
  std::int64_t finished = steps_;
  for (const int taker : takers_) {
    finished = std::min(finished, operation_.told_by(taker).finished);
  }
  if (steps_ == 0 || finished == steps_) return Progress::Done;
  if (filled_ == steps_ || filled_ - finished == kSlots) return Progress::Waiting;
  std::byte* const stage = operation_.stage();
  if (stage == nullptr) {
    return Status::error(fmt::format("no shared memory is left for the stage of this {}",
                                     to_string(operation_.collective().kind)));
  }
  std::byte* const slots = stage + slots_.begin;
  const std::int64_t begin = filled_ * slots_.chunk;
  stream_copy(slots + filled_ % kSlots * slots_.chunk, from_ + begin,
              static_cast<std::size_t>(std::min(slots_.chunk, bytes_ - begin)));
  ++filled_;
  const std::uint64_t place = operation_.place_of(slots);
  for (const int taker : takers_) operation_.tell(taker, ShmSignal::Kind::Filled, place);
  return Progress::Moved;
}

Result<Operation::Progress> ShmSpread::Taker::advance() {
  if (done_) return Progress::Done;
  const ShmMember& giver = operation_.told_by(giver_);
  if (!giver.arrived) return Progress::Waiting;
  if (Status status = operation_.check_arrival(giver_, bytes_); !status.ok()) return status;
  Progress progress = Progress::Done;
  if (bytes_ <= operation_.setup().options.flat_bytes) {
    if (bytes_ > 0) std::memcpy(to_, giver.payload(), static_cast<std::size_t>(bytes_));
  } else {
    progress = giver.direct ? take_direct(giver) : take_step(giver);
  }
  done_ = progress == Progress::Done;
  return progress;
}

Operation::Progress ShmSpread::Taker::take_direct(const ShmMember& giver) {
  const std::int64_t size = std::min(bytes_ - taken_, operation_.setup().options.piece_bytes);
  std::memcpy(to_ + taken_, operation_.at(giver_, giver.place, bytes_) + taken_,
              static_cast<std::size_t>(size));
  taken_ += size;
  if (taken_ < bytes_) return Progress::Moved;
  operation_.tell(giver_, ShmSignal::Kind::Finished);
  return Progress::Done;
}

Operation::Progress ShmSpread::Taker::take_step(const ShmMember& giver) {
  if (giver.filled == steps_) return Progress::Waiting;
  const std::int64_t size = std::min(chunk_, bytes_ - taken_);
  std::memcpy(to_ + taken_, operation_.filled_by(giver_, steps_, chunk_),
              static_cast<std::size_t>(size));
  taken_ += size;
  ++steps_;
  operation_.tell(giver_, ShmSignal::Kind::Finished);
  return taken_ < bytes_ ? Progress::Moved : Progress::Done;
}

}  // namespace kolo::core
