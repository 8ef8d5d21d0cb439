#include "engine/leave_monitor.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

namespace kolo::core {
namespace {

/// Others wait this much longer than rank 0 would.
constexpr double kPatience = 1.25;

}  // namespace

LeaveMonitor::LeaveMonitor(const Config& config, const Topology& topology, spdlog::logger& logger)
    : warn_after_(config.stall_warning * (topology.rank == 0 ? 1 : kPatience)),
      give_up_after_(config.stall_abort * (topology.rank == 0 ? 1 : kPatience)),
      topology_(topology),
      logger_(logger) {}

Status LeaveMonitor::check(Clock::time_point now) {
  const bool may_speak = topology_.rank == 0 || !left_.contains(0);
  if (!may_speak) return {};
  const std::chrono::duration<double> waited = now - begin_;
  if (give_up_after_.count() > 0 && waited > give_up_after_) {
    const std::string error = fmt::format(
        "kolo::shutdown(): given up after {:.1f} s (KOLO_STALL_ABORT_SECONDS): rank(s) {} have not "
        "called "
        "kolo::shutdown() (or ended)",
        waited.count(), fmt::join(missing(), ", "));
    logger_.error("{}", error);
    return Status::error(error);
  }
  if (warn_after_.count() > 0 && now - last_warning_ > warn_after_) {
    last_warning_ = now;
    logger_.warn(
        "stalled: rank(s) {} have not called kolo::shutdown() (or ended), in which others wait "
        "({:.1f} s). "
        "KOLO_STALL_ABORT_SECONDS ends such a wait",
        fmt::join(missing(), ", "), waited.count());
  }
  return {};
}

std::vector<int> LeaveMonitor::missing() const {
  if (topology_.rank != 0) return {0};  // as far as is known
  std::vector<int> ranks;
  for (int rank = 1; rank < topology_.size; ++rank) {
    if (!left_.contains(rank)) ranks.push_back(rank);
  }
  return ranks;
}

}  // namespace kolo::core
