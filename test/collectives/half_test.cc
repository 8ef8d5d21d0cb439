#include "data/half.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <random>

#include "half_oracle.h"

namespace kolo::core {
namespace {

struct Float16 {
  using Format = oracle::Float16Format;
  static float widen(std::uint16_t bits) { return to_float(Half{bits}); }
  static std::uint16_t narrow(float value) { return to_half(value).bits; }
};

struct BrainFloat16 {
  using Format = oracle::BFloat16Format;
  static float widen(std::uint16_t bits) { return to_float(BFloat16{bits}); }
  static std::uint16_t narrow(float value) { return to_bfloat16(value).bits; }
};

template <typename T>
class HalfTest : public ::testing::Test {};
using Formats = ::testing::Types<Float16, BrainFloat16>;
TYPED_TEST_SUITE(HalfTest, Formats);

template <typename T>
void expect_narrows_like_the_oracle(float value) {
  const std::uint16_t expected = oracle::encode<typename T::Format>(value);
  const std::uint16_t actual = T::narrow(value);
  if (std::isnan(value)) {
    ASSERT_TRUE(std::isnan(oracle::decode<typename T::Format>(actual)));
    ASSERT_EQ(actual & 0x8000, expected & 0x8000);
  } else {
    ASSERT_EQ(actual, expected) << std::hexfloat << value;
  }
}

TYPED_TEST(HalfTest, WidensEveryPatternExactly) {
  for (int bits = 0; bits < 0x10000; ++bits) {
    const auto pattern = static_cast<std::uint16_t>(bits);
    const float actual = TypeParam::widen(pattern);
    const long double expected = oracle::decode<typename TypeParam::Format>(pattern);
    if (std::isnan(expected)) {
      ASSERT_TRUE(std::isnan(actual)) << bits;
    } else {
      ASSERT_EQ(static_cast<long double>(actual), expected) << bits;
    }
    ASSERT_EQ(std::signbit(actual), bits >= 0x8000) << bits;
  }
}

TYPED_TEST(HalfTest, NarrowsEveryPatternBackToItself) {
  for (int bits = 0; bits < 0x10000; ++bits) {
    const auto pattern = static_cast<std::uint16_t>(bits);
    const float value = TypeParam::widen(pattern);
    if (std::isnan(value)) {
      expect_narrows_like_the_oracle<TypeParam>(value);
    } else {
      ASSERT_EQ(TypeParam::narrow(value), pattern);
    }
  }
}

// Between each value and the next: the middle, which is a tie, and what is just below and above it.
TYPED_TEST(HalfTest, RoundsToNearestAndTiesToEven) {
  const auto& values = oracle::ascending<typename TypeParam::Format>();
  for (std::size_t lower = 0; lower + 1 < values.size(); ++lower) {
    const auto middle = static_cast<float>((values[lower] + values[lower + 1]) / 2);
    const std::size_t even = lower + lower % 2;
    for (const int sign : {0, 0x8000}) {
      const float signed_middle = sign == 0 ? middle : -middle;
      const float below = std::nextafter(signed_middle, 0.0F);
      const float above = std::nextafter(signed_middle, sign == 0 ? HUGE_VALF : -HUGE_VALF);
      ASSERT_EQ(TypeParam::narrow(signed_middle), static_cast<int>(even) | sign) << middle;
      ASSERT_EQ(TypeParam::narrow(below), static_cast<int>(lower) | sign) << middle;
      ASSERT_EQ(TypeParam::narrow(above), static_cast<int>(lower + 1) | sign) << middle;
    }
  }
}

TYPED_TEST(HalfTest, NarrowsAnyFloatLikeTheOracle) {
  std::mt19937 random(1);
  for (int i = 0; i < 300'000; ++i) {
    expect_narrows_like_the_oracle<TypeParam>(
        std::bit_cast<float>(static_cast<std::uint32_t>(random())));
  }
  for (const std::uint32_t special : {0U, 1U, 0x007fffffU, 0x00800000U, 0x7f7fffffU, 0x7f800000U,
                                      0x7f800001U, 0x7fc00000U, 0x7fffffffU}) {
    expect_narrows_like_the_oracle<TypeParam>(std::bit_cast<float>(special));
    expect_narrows_like_the_oracle<TypeParam>(std::bit_cast<float>(special | 0x80000000U));
  }
}

}  // namespace
}  // namespace kolo::core
