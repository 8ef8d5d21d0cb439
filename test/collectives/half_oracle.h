#pragma once

/// The 16-bit formats written down from their definitions: a check on data/half.h.

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

namespace kolo::core::oracle {

struct Float16Format {
  static constexpr int kExponentBits = 5;
  static constexpr int kFractionBits = 10;
};

struct BFloat16Format {
  static constexpr int kExponentBits = 8;
  static constexpr int kFractionBits = 7;
};

template <typename Format>
long double decode(std::uint16_t bits) {
  constexpr int kBias = (1 << (Format::kExponentBits - 1)) - 1;
  const int fraction = bits & ((1 << Format::kFractionBits) - 1);
  const int exponent = (bits >> Format::kFractionBits) & ((1 << Format::kExponentBits) - 1);
  long double value = 0;
  if (exponent == (1 << Format::kExponentBits) - 1) {
    value = fraction == 0 ? std::numeric_limits<long double>::infinity()
                          : std::numeric_limits<long double>::quiet_NaN();
  } else if (exponent == 0) {
    value = std::ldexp(static_cast<long double>(fraction), 1 - kBias - Format::kFractionBits);
  } else {
    value = std::ldexp(static_cast<long double>(fraction + (1 << Format::kFractionBits)),
                       exponent - kBias - Format::kFractionBits);
  }
  return (bits & 0x8000) != 0 ? -value : value;
}

/// All values from 0 up, and then the one that would come next if the exponents went on: what is
/// nearer to it than to the largest finite value is infinite.
template <typename Format>
const std::vector<long double>& ascending() {
  static const std::vector<long double> values = [] {
    const int infinity = ((1 << Format::kExponentBits) - 1) << Format::kFractionBits;
    std::vector<long double> all;
    for (int bits = 0; bits < infinity; ++bits) {
      all.push_back(decode<Format>(static_cast<std::uint16_t>(bits)));
    }
    const std::size_t last = all.size() - 1;
    all.push_back(all[last] + (all[last] - all[last - 1]));
    return all;
  }();
  return values;
}

/// To nearest, ties to even; some NaN for NaN.
template <typename Format>
std::uint16_t encode(long double value) {
  constexpr int kBias = (1 << (Format::kExponentBits - 1)) - 1;
  constexpr int kInfinity = ((1 << Format::kExponentBits) - 1) << Format::kFractionBits;
  const int sign = std::signbit(value) ? 0x8000 : 0;
  if (std::isnan(value)) return static_cast<std::uint16_t>(kInfinity | sign | 1);
  int bits = kInfinity;
  if (std::isfinite(value)) {
    // Values of one exponent are a power of two apart, and the last of them is
    // the first of the next.
    const int exponent = std::max(std::ilogb(value), 1 - kBias);
    const long double steps =
        std::rint(std::ldexp(std::fabs(value), Format::kFractionBits - exponent));
    const int before = (exponent + kBias - 1) << Format::kFractionBits;
    bits = std::min(kInfinity, before + static_cast<int>(steps));
  }
  return static_cast<std::uint16_t>(bits | sign);
}

}  // namespace kolo::core::oracle
