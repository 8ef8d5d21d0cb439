#include <optional>
#include <vector>

#include "data/shm_spread.h"

namespace kolo::core {
namespace {

/// The root gives, all others take.
class ShmBroadcast final : public ShmSpread {
 public:
  ShmBroadcast(const ShmSetup& setup, const Collective& collective) : ShmSpread(setup, collective) {
    const std::int64_t bytes = bytes_of(collective.count);
    if (self() == collective.root_member) {
      giver_.emplace(*this, collective.output, bytes, peers(), whole_stage());
    } else {
      taker_.emplace(*this, collective.root_member, static_cast<std::byte*>(collective.output),
                     bytes, whole_stage().chunk);
    }
  }

  /// Takers do not tell that they are there.
  std::vector<int> missing() const override {
    std::vector<int> missing = ShmOperation::missing();
    std::erase_if(missing, [this](int member) { return member != collective().root_member; });
    return missing;
  }

 private:
  Result<Progress> advance() override { return giver_ ? giver_->advance() : taker_->advance(); }

  std::optional<Giver> giver_;
  std::optional<Taker> taker_;
};

}  // namespace

StartedOperation start_shm_broadcast(const ShmSetup& setup, const Collective& collective) {
  return ShmOperation::begin(std::make_unique<ShmBroadcast>(setup, collective));
}

}  // namespace kolo::core
