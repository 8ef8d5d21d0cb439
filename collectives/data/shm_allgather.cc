#include <cstring>
#include <vector>

#include "data/shm_spread.h"

namespace kolo::core {
namespace {

/// Everybody gives its part, and takes all others'.
class ShmAllgather final : public ShmSpread {
 public:
  ShmAllgather(const ShmSetup& setup, const Collective& collective)
      : ShmSpread(setup, collective),
        giver_(*this, collective.input, part_bytes(collective.member), peers(), whole_stage()) {
    std::byte* const own = part(self());
    if (part_bytes(self()) > 0 && own != collective.input) {
      std::memcpy(own, collective.input, static_cast<std::size_t>(part_bytes(self())));
    }
    for (const int member : peers()) {
      takers_.emplace_back(*this, member, part(member), part_bytes(member), whole_stage().chunk);
    }
  }

 private:
  std::int64_t part_bytes(int member) const {
    return bytes_of(collective().counts[static_cast<std::size_t>(member)]);
  }

  /// A member's place in the output.
  std::byte* part(int member) const {
    std::int64_t before = 0;
    for (int i = 0; i < member; ++i) before += part_bytes(i);
    return static_cast<std::byte*>(collective().output) + before;
  }

  Result<Progress> advance() override {
    const Result<Progress> given = giver_.advance();
    if (!given.ok()) return given;
    const Result<Progress> taken = advance_all(takers_);
    return taken.ok() ? both(given.value(), taken.value()) : taken;
  }

  Giver giver_;
  std::vector<Taker> takers_;
};

}  // namespace

StartedOperation start_shm_allgather(const ShmSetup& setup, const Collective& collective) {
  return ShmOperation::begin(std::make_unique<ShmAllgather>(setup, collective));
}

}  // namespace kolo::core
