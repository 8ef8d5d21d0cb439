#include "bench/statistics.h"

#include <algorithm>
#include <cmath>
#include <functional>

namespace kolo::bench {
namespace {

double at_fraction(const std::vector<double>& sorted, double fraction) {
  const double position = fraction * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<std::size_t>(position);
  const std::size_t above = std::min(below + 1, sorted.size() - 1);
  return std::lerp(sorted[below], sorted[above], position - static_cast<double>(below));
}

std::vector<double> pair_by_pair(const std::vector<double>& a, const std::vector<double>& b,
                                 const std::function<double(double, double)>& combine) {
  std::vector<double> combined(std::min(a.size(), b.size()));
  std::transform(a.begin(), a.begin() + static_cast<std::ptrdiff_t>(combined.size()), b.begin(),
                 combined.begin(), combine);
  return combined;
}

}  // namespace

Summary summary_of(std::vector<double> samples) {
  std::ranges::sort(samples);
  return {.p25 = at_fraction(samples, 0.25),
          .median = at_fraction(samples, 0.5),
          .p75 = at_fraction(samples, 0.75),
          .p99 = at_fraction(samples, 0.99),
          .max = samples.back(),
          .n = samples.size()};
}

std::vector<double> ratios(const std::vector<double>& a, const std::vector<double>& b) {
  return pair_by_pair(a, b, std::divides<>());
}

std::vector<double> differences(const std::vector<double>& a, const std::vector<double>& b) {
  return pair_by_pair(a, b, std::minus<>());
}

std::vector<Series> scaled(std::vector<Series> series, double factor) {
  for (Series& one : series) {
    for (double& sample : one.samples) sample *= factor;
  }
  return series;
}

}  // namespace kolo::bench
