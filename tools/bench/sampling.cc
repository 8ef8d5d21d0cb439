#include "bench/sampling.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <utility>

namespace kolo::bench {
namespace {

using Clock = std::chrono::steady_clock;

/// A batch of calls takes at least so many seconds: a hundred times the skew of a barrier.
constexpr double kBatchSeconds = 200e-6;
constexpr double kLargestBatch = 2000;

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

}  // namespace

std::vector<Series> take_samples(const std::vector<Method>& methods, const Budget& budget,
                                 const Ranks& ranks) {
  std::vector<Series> series;
  for (const Method& method : methods) {
    series.push_back({.method = method.name, .samples = {}});
    method.sample();
  }
  const Clock::time_point begin = Clock::now();
  for (std::size_t round = 0;
       round < budget.fewest_rounds || !ranks.any(seconds_since(begin) > budget.seconds); ++round) {
    for (std::size_t i = 0; i < methods.size(); ++i) {
      const std::size_t turn = (i + round) % methods.size();
      series[turn].samples.push_back(ranks.max(methods[turn].sample()));
    }
  }
  return series;
}

Stopwatch::Stopwatch(std::function<void()> call, const Ranks& ranks)
    : call_(std::move(call)), ranks_(&ranks) {
  time(1);
  const double once = ranks_->max(time(1));
  // Short calls are shorter in a row.
  const double hot = once > kBatchSeconds ? once : ranks_->max(time(10)) / 10;
  batch_ = static_cast<std::size_t>(std::clamp(std::ceil(kBatchSeconds / hot), 1.0, kLargestBatch));
}

double Stopwatch::operator()() const { return time(batch_) / static_cast<double>(batch_); }

double Stopwatch::time(std::size_t calls) const {
  ranks_->barrier();
  const Clock::time_point begin = Clock::now();
  for (std::size_t i = 0; i < calls; ++i) call_();
  return seconds_since(begin);
}

}  // namespace kolo::bench
