#include <algorithm>
#include <vector>

#include "data/reduce.h"
#include "data/shm_spread.h"

namespace kolo::core {
namespace {

/// Everybody gives each other its part of that one's slice, and reduces its own from the parts
/// where they lie: in a signal, an arena, or slots.
///
///   state     meaning                             leaves it
///   --------  ----------------------------------  -----------------------------------------------
///   Waiting   not all others have arrived         all have -> Reducing
///   Reducing  reduces a piece that all private    the slice is reduced: tells all whose arenas it
///             members have filled, and tells      has read that it has finished -> done
///             these that it has finished a step
class ShmReducescatter final : public ShmSpread {
 public:
  ShmReducescatter(const ShmSetup& setup, const Collective& collective)
      : ShmSpread(setup, collective), bytes_(bytes_of(output_count(collective))) {
    for (std::size_t peer = 0; peer < peers().size(); ++peer) {
      const int member = peers()[peer];
      const Slots slots = share_for(peer);
      givers_.emplace_back(*this, part_of(member),
                           bytes_of(collective.counts[static_cast<std::size_t>(member)]),
                           std::vector{member}, slots);
      chunk_ = slots.chunk;
    }
  }

 private:
  /// What this member has of another's slice.
  const std::byte* part_of(int member) const {
    const auto index = static_cast<std::size_t>(member);
    return static_cast<const std::byte*>(collective().input) +
           bytes_of(elements_before(collective().counts, index));
  }

  Result<Progress> advance() override {
    const Result<Progress> given = advance_all(givers_);
    if (!given.ok()) return given;
    const Result<Progress> reduced = reduce_next();
    return reduced.ok() ? both(given.value(), reduced.value()) : reduced;
  }

  Result<Progress> reduce_next() {
    if (!reducing_) {
      const auto arrived = [this](int member) { return told_by(member).arrived; };
      if (!std::ranges::all_of(peers(), arrived)) return Progress::Waiting;
      if (Status status = begin_reducing(); !status.ok()) return status;
    }
    if (reduced_ == bytes_) return Progress::Done;
    const auto filled = [this](int member) { return told_by(member).filled > steps_; };
    if (!std::ranges::all_of(private_peers_, filled)) return Progress::Waiting;
    const std::int64_t piece = private_peers_.empty() ? setup().options.piece_bytes : chunk_;
    const std::int64_t size = std::min(piece, bytes_ - reduced_);
    reduce_piece(size);
    reduced_ += size;
    ++steps_;
    for (const int member : private_peers_) tell(member, ShmSignal::Kind::Finished);
    if (reduced_ < bytes_) return Progress::Moved;
    for (const int member : direct_peers_) tell(member, ShmSignal::Kind::Finished);
    return Progress::Done;
  }

  Status begin_reducing() {
    for (const int member : peers()) {
      if (Status status = check_arrival(member, bytes_); !status.ok()) return status;
      if (bytes_ <= setup().options.flat_bytes) continue;
      (told_by(member).direct ? direct_peers_ : private_peers_).push_back(member);
    }
    reducing_ = true;
    return {};
  }

  void reduce_piece(std::int64_t size) const {
    std::vector<const void*> inputs;
    for (int member = 0; member < members(); ++member) inputs.push_back(input(member));
    void* const output = static_cast<std::byte*>(collective().output) + reduced_;
    reduce(collective().dtype, collective().op, inputs, {&output, 1},
           size / static_cast<std::int64_t>(size_of(collective().dtype)), collective().prescale,
           collective().postscale);
  }

  /// A member's part of what is next.
  const std::byte* input(int member) const {
    if (member == self()) return part_of(member) + reduced_;
    const ShmMember& other = told_by(member);
    if (bytes_ <= setup().options.flat_bytes) return other.payload() + reduced_;
    if (other.direct) return at(member, other.place, bytes_) + reduced_;
    return filled_by(member, steps_, chunk_);
  }

  /// Of the own slice.
  const std::int64_t bytes_;
  std::vector<Giver> givers_;
  std::int64_t chunk_ = 0;
  bool reducing_ = false;
  std::vector<int> direct_peers_;
  std::vector<int> private_peers_;
  std::int64_t steps_ = 0;
  std::int64_t reduced_ = 0;
};

}  // namespace

StartedOperation start_shm_reducescatter(const ShmSetup& setup, const Collective& collective) {
  return ShmOperation::begin(std::make_unique<ShmReducescatter>(setup, collective));
}

}  // namespace kolo::core
