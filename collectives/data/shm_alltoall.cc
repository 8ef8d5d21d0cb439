#include <cstring>
#include <vector>

#include "data/shm_spread.h"

namespace kolo::core {
namespace {

/// Everybody gives something to each other, and takes something from each.
class ShmAlltoall final : public ShmSpread {
 public:
  ShmAlltoall(const ShmSetup& setup, const Collective& collective) : ShmSpread(setup, collective) {
    const Part own = taken_from(self());
    if (own.bytes > 0) {
      std::memmove(output() + own.begin, input() + given_to(self()).begin,
                   static_cast<std::size_t>(own.bytes));
    }
    for (std::size_t peer = 0; peer < peers().size(); ++peer) {
      const int member = peers()[peer];
      const Slots slots = share_for(peer);
      const Part given = given_to(member);
      const Part taken = taken_from(member);
      givers_.emplace_back(*this, input() + given.begin, given.bytes, std::vector{member}, slots);
      takers_.emplace_back(*this, member, output() + taken.begin, taken.bytes, slots.chunk);
    }
  }

 private:
  /// Bytes of the input or output.
  struct Part {
    std::int64_t begin;
    std::int64_t bytes;
  };

  const std::byte* input() const { return static_cast<const std::byte*>(collective().input); }
  std::byte* output() const { return static_cast<std::byte*>(collective().output); }
  Part given_to(int member) const { return part(collective().splits, member); }
  Part taken_from(int member) const { return part(collective().counts, member); }

  Part part(const std::vector<std::int64_t>& counts, int member) const {
    const auto index = static_cast<std::size_t>(member);
    return {bytes_of(elements_before(counts, index)), bytes_of(counts[index])};
  }

  Result<Progress> advance() override {
    const Result<Progress> given = advance_all(givers_);
    if (!given.ok()) return given;
    const Result<Progress> taken = advance_all(takers_);
    return taken.ok() ? both(given.value(), taken.value()) : taken;
  }

  std::vector<Giver> givers_;
  std::vector<Taker> takers_;
};

}  // namespace

StartedOperation start_shm_alltoall(const ShmSetup& setup, const Collective& collective) {
  return ShmOperation::begin(std::make_unique<ShmAlltoall>(setup, collective));
}

}  // namespace kolo::core
