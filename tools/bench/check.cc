#include "bench/check.h"

#include <fmt/format.h>

#include <bit>
#include <cstdint>

namespace kolo::bench {
namespace {

/// 64 bits for each element, one of them for each rank (SplitMix64).
std::uint64_t bits_of(std::size_t tensor, std::size_t index) {
  std::uint64_t x = (static_cast<std::uint64_t>(tensor) << 40) + index + 1;
  x *= 0x9E3779B97F4A7C15U;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9U;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBU;
  return x ^ (x >> 31);
}

}  // namespace

double contribution(int rank, std::size_t tensor, std::size_t index) {
  return static_cast<double>((bits_of(tensor, index) >> (rank % 64)) & 1U);
}

double exact_sum(int ranks, std::size_t tensor, std::size_t index) {
  const std::uint64_t bits = bits_of(tensor, index);
  const int rest = ranks % 64;
  const int sum = ranks / 64 * std::popcount(bits) + std::popcount(bits & ((1ULL << rest) - 1));
  return static_cast<double>(sum);
}

std::optional<std::string> find_wrong(std::span<const double> values, int ranks,
                                      std::size_t tensor) {
  for (std::size_t i = 0; i < values.size(); ++i) {
    const double expected = exact_sum(ranks, tensor, i);
    if (values[i] != expected) {
      return fmt::format("element {} of {} is {}, but must be {}", i, values.size(), values[i],
                         expected);
    }
  }
  return std::nullopt;
}

}  // namespace kolo::bench
