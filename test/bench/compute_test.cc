#include "bench/compute.h"

#include <gtest/gtest.h>

#include <vector>

namespace kolo::bench {
namespace {

constexpr Seconds kMilli{1e-3};

/// Takes longer than it is asked to, by a part of it; nothing of that is measured.
class Slow {
 public:
  explicit Slow(double factor) : factor_(factor) {}

  Seconds operator()(Seconds duration) {
    asked_.push_back(duration);
    spent_ += factor_ * duration;
    return factor_ * duration;
  }

  const std::vector<Seconds>& asked() const { return asked_; }
  Seconds spent() const { return spent_; }

 private:
  double factor_;
  std::vector<Seconds> asked_;
  Seconds spent_{0};
};

TEST(Compute, SmallPortionsAreSpentTogether) {
  Slow slow(1);
  Compute compute([&slow](Seconds duration) { return slow(duration); }, 10 * kMilli);
  for (int i = 0; i < 99; ++i) compute.spend(3 * kMilli);
  ASSERT_EQ(slow.asked().size(), 24U) << "every fourth time 12 ms";
  for (const Seconds asked : slow.asked()) EXPECT_NEAR(asked / kMilli, 12, 1e-6);
}

TEST(Compute, WhatWasOverspentCounts) {
  for (const double factor : {1.0, 1.3, 7.0}) {
    Slow slow(factor);
    Compute compute([&slow](Seconds duration) { return slow(duration); }, Seconds(0));
    const Seconds portion = 0.02 * kMilli;
    Seconds sum{0};
    for (int i = 0; i < 100; ++i) {
      compute.spend(portion);
      sum += portion;
      EXPECT_GE(slow.spent(), sum - 1e-9 * kMilli) << factor;
      EXPECT_LE(slow.spent(), sum + factor * portion) << factor;
    }
  }
}

TEST(Compute, APauseDoesNotCount) {
  Slow slow(100);
  Compute compute([&slow](Seconds duration) { return slow(duration); }, Seconds(0));
  for (int i = 0; i < 10; ++i) compute.spend(kMilli);
  ASSERT_EQ(slow.asked().size(), 10U);
  for (const Seconds asked : slow.asked()) EXPECT_GE(asked, 0.8 * kMilli);
}

TEST(Compute, NothingIsSpentAtOnce) {
  Slow slow(1);
  Compute compute([&slow](Seconds duration) { return slow(duration); }, Seconds(0));
  compute.spend(Seconds(0));
  EXPECT_TRUE(slow.asked().empty());
}

/// What a call takes by the clock, and of the processor.
struct Taken {
  Seconds elapsed{0};
  Seconds processor{0};
};

Taken taken(ComputeAs as) {
  Compute compute(as);
  const auto begin = std::chrono::steady_clock::now();
  const Seconds used = process_cpu_time();
  for (int i = 0; i < 100; ++i) compute.spend(kMilli);
  return {.elapsed = std::chrono::steady_clock::now() - begin,
          .processor = process_cpu_time() - used};
}

// A machine that is busy makes both take longer, but the processor's part of a sleep does not grow,
// nor does that of work shrink.

TEST(Compute, SleepLeavesTheProcessorToOthers) {
  const Taken sleep = taken(ComputeAs::Sleep);
  EXPECT_GE(sleep.elapsed, 99 * kMilli);
  EXPECT_LT(sleep.processor / sleep.elapsed, 0.5);
}

TEST(Compute, WorkUsesTheProcessor) {
  EXPECT_GE(taken(ComputeAs::Work).processor, 99 * kMilli);
}

}  // namespace
}  // namespace kolo::bench
