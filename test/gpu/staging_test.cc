// The example's batches on their way to the GPU: it reads them while the host goes on, and no slot
// is filled again before.

#include "staging.h"

#include <algorithm>
#include <future>
#include <optional>

#include "framework/support.h"
#include "gpu/gate.h"

namespace kolo::testing {
namespace {

using resnet_example::BatchSlot;
using resnet_example::Staging;

class StagingTest : public FrameworkTest {};

constexpr std::int64_t kImages = 4;

void fill(const BatchSlot& slot, int value) {
  std::fill_n(slot.images, kImages * 3 * 32 * 32, static_cast<float>(value));
  std::fill_n(slot.labels, kImages, value);
}

/// As a loader's worker asks.
bool was_read(const BatchSlot& slot) { return std::async(std::launch::async, slot.was_read).get(); }

TEST_F(StagingTest, ASlotIsInUseUntilTheGpuHasReadIt) {
  Staging staging({.slots = 2, .batch_size = kImages, .channels = 3}, device());
  const std::vector<BatchSlot>& slots = staging.slots();
  for (int round = 0; round < 3; ++round) {
    // The first time memory is allocated.
    std::optional<Gate> gate;
    if (round > 0) gate.emplace();
    EXPECT_TRUE(was_read(slots[0]));
    fill(slots[0], round);
    const auto [images, labels] = staging.send({.slot = 0, .size = 3});
    if (gate) {
      EXPECT_FALSE(was_read(slots[0]));
      EXPECT_TRUE(was_read(slots[1]));
      gate->open();
    }
    torch::cuda::synchronize(device().index());
    EXPECT_TRUE(was_read(slots[0]));
    fill(slots[0], -1);
    EXPECT_EQ(images.device(), device());
    EXPECT_EQ(images.sizes(), torch::IntArrayRef({3, 3, 32, 32}));
    EXPECT_EQ(labels.sizes(), torch::IntArrayRef({3}));
    EXPECT_TRUE(images.eq(round).all().item<bool>());
    EXPECT_TRUE(labels.eq(round).all().item<bool>());
  }
}

}  // namespace
}  // namespace kolo::testing
