#pragma once

/// What samples say: the quartiles, which no single bad one can move, and the tail,
/// which tells of it.

#include <cstddef>
#include <string>
#include <vector>

namespace kolo::bench {

struct Summary {
  double p25 = 0;
  double median = 0;
  double p75 = 0;
  double p99 = 0;
  double max = 0;
  std::size_t n = 0;
};

/// Between two samples it interpolates, as numpy.percentile does. `samples` is not empty.
Summary summary_of(std::vector<double> samples);

/// Pair by pair: a[i] / b[i] and a[i] - b[i], of samples that were taken side by side.
std::vector<double> ratios(const std::vector<double>& a, const std::vector<double>& b);
std::vector<double> differences(const std::vector<double>& a, const std::vector<double>& b);

/// The samples of a method, by round.
struct Series {
  std::string method;
  std::vector<double> samples;
};

/// Each sample times `factor`.
std::vector<Series> scaled(std::vector<Series> series, double factor);

}  // namespace kolo::bench
