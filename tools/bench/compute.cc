#include "bench/compute.h"

#include <time.h>

#include <algorithm>
#include <stdexcept>
#include <thread>
#include <utility>

namespace kolo::bench {
namespace {

/// What Linux lets a sleep be late by, several times over: no sleep is shorter. What takes longer than that
/// was kept from the core, and has computed nothing meanwhile.
constexpr Seconds kLate{200e-6};

Seconds cpu_time(clockid_t clock) {
  timespec now{};
  ::clock_gettime(clock, &now);
  return Seconds(static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec));
}

Seconds sleep(Seconds duration) {
  const auto begin = std::chrono::steady_clock::now();
  std::this_thread::sleep_for(duration);
  return std::chrono::steady_clock::now() - begin;
}

/// Until this thread has had the core for so long.
Seconds work(Seconds duration) {
  const Seconds begin = cpu_time(CLOCK_THREAD_CPUTIME_ID);
  Seconds used{0};
  while (used < duration) used = cpu_time(CLOCK_THREAD_CPUTIME_ID) - begin;
  return used;
}

Compute make(ComputeAs as) {
  switch (as) {
    case ComputeAs::Sleep:
      return {sleep, kLate};
    case ComputeAs::Work:
      return {work, Seconds(0)};
  }
  throw std::logic_error("not a way to compute");
}

}  // namespace

Compute::Compute(ComputeAs as) : Compute(make(as)) {}

Compute::Compute(Spend spend, Seconds shortest) : spend_(std::move(spend)), shortest_(shortest) {}

void Compute::spend(Seconds portion) {
  owed_ += portion;
  if (owed_ > Seconds(0) && owed_ >= shortest_) owed_ = std::max(owed_ - spend_(owed_), -kLate);
}

Seconds process_cpu_time() { return cpu_time(CLOCK_PROCESS_CPUTIME_ID); }

}  // namespace kolo::bench
