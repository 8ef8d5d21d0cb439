#pragma once

/// The 16-bit floating-point formats, converted by code that every compiler can vectorise.
///
/// Conversions to float32 are exact; those from it round to nearest, ties to even, and keep NaN
/// (made quiet) and its sign. None depends on subnormal float32 values, so a thread that flushes
/// those to zero gets the same numbers.

#include <bit>
#include <cstdint>

namespace kolo::core {

/// IEEE 754 binary16: 1 sign, 5 exponent and 10 fraction bits.
struct Half {
  std::uint16_t bits;
};

/// The upper half of a float32: 1 sign, 8 exponent and 7 fraction bits.
struct BFloat16 {
  std::uint16_t bits;
};

/// Without a branch, which compilers would use to skip floating-point operations; branches are in
/// the way of vectorising.
inline std::int32_t select(bool condition, std::int32_t yes, std::int32_t no) {
  const std::int32_t mask = -static_cast<std::int32_t>(condition);
  return (yes & mask) | (no & ~mask);
}

inline float to_float(Half half) {
  constexpr std::int32_t kRebias = (127 - 15) << 23;
  constexpr std::int32_t kSmallestNormal = 1 << 10;
  constexpr std::int32_t kInfinity = 31 << 10;
  const std::int32_t magnitude = half.bits & 0x7fff;
  const std::int32_t shifted = magnitude << 13;
  // Read after a leading 1 of weight 2^-14, which is then taken away, the fraction is a
  // subnormal's.
  constexpr std::int32_t kOne = 113 << 23;
  const float subnormal = std::bit_cast<float>(kOne + shifted) - std::bit_cast<float>(kOne);
  const std::int32_t normal = shifted + kRebias + select(magnitude >= kInfinity, kRebias, 0);
  const std::int32_t value =
      select(magnitude < kSmallestNormal, std::bit_cast<std::int32_t>(subnormal), normal);
  const std::uint32_t sign = (half.bits & 0x8000U) << 16;
  return std::bit_cast<float>(static_cast<std::uint32_t>(value) | sign);
}

inline Half to_half(float value) {
  constexpr std::int32_t kRebias = (127 - 15) << 23;
  constexpr std::int32_t kSmallestNormal = 113 << 23;
  constexpr std::int32_t kFloatInfinity = 255 << 23;
  // From halfway between the largest finite value and the next power of two up.
  constexpr std::int32_t kOverflow = (142 << 23) + 0x7ff000;
  const std::int32_t bits = std::bit_cast<std::int32_t>(value);
  const std::int32_t magnitude = bits & 0x7fffffff;
  const std::int32_t rounded = (magnitude - kRebias + 0xfff + ((magnitude >> 13) & 1)) >> 13;
  // 0.5's last bit has the weight of a subnormal's, so that the addition rounds.
  const std::int32_t small = select(magnitude < kSmallestNormal, magnitude, 0);
  const std::int32_t subnormal = std::bit_cast<std::int32_t>(std::bit_cast<float>(small) + 0.5F) -
                                 std::bit_cast<std::int32_t>(0.5F);
  const std::int32_t nan = 0x7e00 | ((magnitude >> 13) & 0x1ff);
  std::int32_t result = select(magnitude < kSmallestNormal, subnormal, rounded);
  result = select(magnitude >= kOverflow, 0x7c00, result);
  result = select(magnitude > kFloatInfinity, nan, result);
  const std::int32_t sign = (bits >> 16) & 0x8000;
  return {static_cast<std::uint16_t>(result | sign)};
}

inline float to_float(BFloat16 value) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(value.bits) << 16);
}

inline BFloat16 to_bfloat16(float value) {
  constexpr std::uint32_t kFloatInfinity = 255U << 23;
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const std::uint32_t nan = (bits >> 16) | 0x40;
  return {static_cast<std::uint16_t>((bits & 0x7fffffff) > kFloatInfinity ? nan : rounded)};
}

}  // namespace kolo::core
