#include "bench/check.h"

#include <fmt/format.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <stdexcept>

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

std::optional<std::string> check_sum(std::span<double> values, std::size_t tensor, int rank,
                                     int ranks, const std::function<void()>& sum) {
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = contribution(rank, tensor, i);
  sum();
  return find_wrong(values, ranks, tensor);
}

std::optional<std::string> check_calls(std::span<double> values, int rank, int ranks,
                                       const std::function<void()>& sum) {
  std::optional<std::string> first;
  for (std::size_t call = 0; call < kCheckedCalls; ++call) {
    const auto wrong = check_sum(values, call, rank, ranks, sum);
    if (wrong && !first) first = fmt::format("call {} of {}: {}", call + 1, kCheckedCalls, *wrong);
  }
  return first;
}

std::optional<std::string> find_wrong_mean(std::span<const float> values,
                                           std::span<const float> contributions, int ranks) {
  using Limits = std::numeric_limits<float>;
  // Of n values: n - 1 additions, a factor and a product, each wrong by half an epsilon of the mean
  // magnitude at most, to the first order. The whole epsilon covers the orders beyond.
  const double rounding = (ranks + 1) * static_cast<double>(Limits::epsilon());
  for (std::size_t i = 0; i < values.size(); ++i) {
    double sum = 0;
    double magnitude = 0;
    for (std::size_t j = i; j < contributions.size(); j += values.size()) {
      sum += contributions[j];
      magnitude += std::abs(contributions[j]);
    }
    const double mean = sum / ranks;
    // Numbers below the least normal one may have become zero.
    const double tolerance = rounding * magnitude / ranks + Limits::min();
    if (!(std::abs(values[i] - mean) <= tolerance)) {
      return fmt::format("element {} of {} is {}, but must be {} within {}", i, values.size(),
                         values[i], mean, tolerance);
    }
  }
  return std::nullopt;
}

void require_right(const std::string& method, const std::optional<std::string>& wrong,
                   const Ranks& ranks) {
  if (!ranks.any(wrong.has_value())) return;
  throw std::runtime_error(
      fmt::format("{}: a wrong result: {}", method, wrong.value_or("on another rank")));
}

}  // namespace kolo::bench
