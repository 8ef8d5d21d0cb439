#include "loss_scale.h"

#include <gtest/gtest.h>

namespace resnet_example {
namespace {

void update(LossScale& scale, int times, bool finite) {
  for (int i = 0; i < times; ++i) scale.update(finite);
}

TEST(LossScale, BeginsAt65536) { EXPECT_EQ(LossScale().factor(), 65536); }

TEST(LossScale, GrowsAfter2000FiniteStepsInARow) {
  LossScale scale;
  update(scale, 1999, true);
  EXPECT_EQ(scale.factor(), 65536);
  scale.update(true);
  EXPECT_EQ(scale.factor(), 2 * 65536);
  update(scale, 1999, true);
  EXPECT_EQ(scale.factor(), 2 * 65536);
  scale.update(true);
  EXPECT_EQ(scale.factor(), 4 * 65536);
}

TEST(LossScale, HalvesAtOnceAndCountsAnew) {
  LossScale scale;
  update(scale, 1999, true);
  scale.update(false);
  EXPECT_EQ(scale.factor(), 32768);
  update(scale, 1999, true);
  EXPECT_EQ(scale.factor(), 32768);
  scale.update(true);
  EXPECT_EQ(scale.factor(), 65536);
  update(scale, 3, false);
  EXPECT_EQ(scale.factor(), 8192);
}

TEST(LossScale, GoesOnFromAState) {
  LossScale scale;
  update(scale, 1500, true);
  scale.update(false);
  update(scale, 700, true);
  LossScale other(scale.state());
  update(other, 1299, true);
  EXPECT_EQ(other.factor(), 32768);
  other.update(true);
  EXPECT_EQ(other.factor(), 65536);
}

}  // namespace
}  // namespace resnet_example
