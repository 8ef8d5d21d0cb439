#include "bench/compute.h"

#include <time.h>

#include <thread>

namespace kolo::bench {
namespace {

/// What Linux lets a sleep be late by, several times over.
constexpr Seconds kShortestSleep{200e-6};

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

}  // namespace

void Compute::spend(Seconds portion) {
  owed_ += portion;
  switch (as_) {
    case ComputeAs::Sleep:
      if (owed_ >= kShortestSleep) owed_ -= sleep(owed_);
      break;
    case ComputeAs::Work:
      if (owed_ > Seconds(0)) owed_ -= work(owed_);
      break;
  }
}

Seconds process_cpu_time() { return cpu_time(CLOCK_PROCESS_CPUTIME_ID); }

}  // namespace kolo::bench
