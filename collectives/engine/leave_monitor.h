#pragma once

/// Names the ranks that this one waits for in shutdown().

#include <chrono>
#include <set>
#include <vector>

#include "base/config.h"
#include "base/log.h"
#include "base/status.h"
#include "base/topology.h"

namespace kolo::core {

/// Rank 0 hears of each rank that it has called shutdown(), and tells the others, unless it has
/// nothing to do and sleeps. So it reports who is missing; and the others, a little later, if it is
/// missing itself. Used by one thread at a time.
class LeaveMonitor {
 public:
  using Clock = std::chrono::steady_clock;

  LeaveMonitor(const Config& config, const Topology& topology, spdlog::logger& logger);

  /// This rank has called shutdown().
  void begin(Clock::time_point now) { begin_ = last_warning_ = now; }
  /// Another rank has.
  void left(int rank) { left_.insert(rank); }

  /// To be called while this rank waits for the others. Warns; fails when they do not come.
  Status check(Clock::time_point now);

 private:
  std::vector<int> missing() const;

  const std::chrono::duration<double> warn_after_;
  const std::chrono::duration<double> give_up_after_;
  const Topology topology_;
  spdlog::logger& logger_;
  Clock::time_point begin_;
  /// Or the begin.
  Clock::time_point last_warning_;
  std::set<int> left_;
};

}  // namespace kolo::core
