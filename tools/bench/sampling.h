#pragma once

/// Takes samples of several methods side by side, so that whatever disturbs the machine disturbs
/// all.

#include <cstddef>
#include <functional>
#include <string>
#include <vector>

#include "bench/ranks.h"
#include "bench/statistics.h"

namespace kolo::bench {

struct Method {
  std::string name;
  /// One sample on this rank. Collective.
  std::function<double()> sample;
};

struct Budget {
  double seconds = 1;
  std::size_t fewest_rounds = 10;
};

/// Runs all methods in every round, in turn first, until the time is over; the first round is a
/// warm-up and does not count. A sample is the largest of all ranks'. Collective.
std::vector<Series> take_samples(const std::vector<Method>& methods, const Budget& budget,
                                 const Ranks& ranks);

/// Seconds of `call`, begun together on all ranks. Where a call is shorter than the skew of that
/// beginning, many are made and the time is divided. Collective.
class Stopwatch {
 public:
  /// Makes some calls, to warm up and to learn how many to time at once.
  Stopwatch(std::function<void()> call, const Ranks& ranks);

  double operator()() const;

 private:
  double time(std::size_t calls) const;

  std::function<void()> call_;
  const Ranks* ranks_;
  std::size_t batch_ = 1;
};

}  // namespace kolo::bench
