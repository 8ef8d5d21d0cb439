#include "engine/stall_monitor.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <set>
#include <string>

#include "base/names.h"

namespace kolo::core {
namespace {

using Stall = Negotiator::Stall;

/// Members wait this much longer than a leader would.
constexpr double kPatience = 1.25;

constexpr auto kHowToEnd =
    "(They are waited for; KOLO_STALL_ABORT_SECONDS makes it an error after that time.)";

}  // namespace

StallMonitor::StallMonitor(const Config& config, int rank, spdlog::logger& logger)
    : warn_after_(config.stall_warning),
      abort_after_(config.stall_abort),
      rank_(rank),
      logger_(logger) {}

Result<StallMonitor::Notices> StallMonitor::check(std::map<ChannelId, Channel>& channels,
                                                  const Executor& executor,
                                                  Clock::time_point now) {
  Notices notices;
  if (now < next_check_) return notices;
  next_check_ = now + kInterval;
  for (auto& [id, channel] : channels) {
    if (channel.negotiator != nullptr) {
      if (abort_after_.count() > 0) give_up(*channel.negotiator, now);
      if (warn_after_.count() > 0) warn(id, channel, now, notices);
    } else if (!channel.pending.empty()) {
      if (abort_after_.count() > 0) {
        if (Status status = give_up_on_leader(channel, now); !status.ok()) return status;
      }
      if (warn_after_.count() > 0) warn_of_leader(channel, now);
    }
  }
  if (Status status = check_started(executor, now); !status.ok()) return status;
  return notices;
}

Status StallMonitor::check_started(const Executor& executor, Clock::time_point now) {
  if (abort_after_.count() > 0) {
    for (const Executor::Stall& stall : executor.stalled(now, kPatience * abort_after_)) {
      return Status::error(fmt::format(
          "{}: given up after {:.1f} s: rank(s) {} take part, rank(s) {} have not come "
          "(KOLO_STALL_ABORT_SECONDS)",
          stall.operation, stall.age.count(), fmt::join(stall.present, ", "),
          fmt::join(stall.missing, ", ")));
    }
  }
  if (warn_after_.count() == 0 || now - last_report_ < warn_after_) return {};
  for (const Executor::Stall& stall : executor.stalled(now, warn_after_)) {
    last_report_ = now;
    if (stall.present.front() != rank_) continue;
    logger_.warn("stalled: rank(s) {} have not come to {} ({:.1f} s), for which others wait. Are they "
                 "slow, or on another path of the program? {}",
                 fmt::join(stall.missing, ", "), stall.operation, stall.age.count(), kHowToEnd);
  }
  return {};
}

void StallMonitor::give_up(Negotiator& negotiator, Clock::time_point now) const {
  for (const Stall& stall : negotiator.stalled(now, abort_after_)) {
    negotiator.fail(
        stall.name,
        fmt::format("{} '{}': given up after {:.1f} s: rank(s) {} submitted it, rank(s) {} did "
                    "not (KOLO_STALL_ABORT_SECONDS)",
                    to_string(stall.kind), shortened(stall.name), stall.age.count(),
                    fmt::join(stall.submitted, ", "), fmt::join(stall.missing, ", ")));
  }
}

void StallMonitor::warn(ChannelId id, Channel& channel, Clock::time_point now,
                        Notices& notices) const {
  if (now - channel.quiet_since < warn_after_) return;
  const std::vector<Stall> stalls = channel.negotiator->stalled(now, warn_after_);
  if (stalls.empty()) return;
  channel.quiet_since = now;
  std::map<std::vector<int>, std::vector<std::string>> by_missing;
  std::set<int> waiting;
  for (const Stall& stall : stalls) {
    by_missing[stall.missing].push_back(fmt::format("{} '{}' ({:.1f} s)", to_string(stall.kind),
                                                    shortened(stall.name), stall.age.count()));
    waiting.insert(stall.submitted.begin(), stall.submitted.end());
  }
  for (const auto& [missing, operations] : by_missing) {
    logger_.warn("stalled: rank(s) {} have not submitted {}, for which others wait. Are they slow, "
                 "or on another path of the program? {}",
                 fmt::join(missing, ", "), fmt::join(operations, ", "), kHowToEnd);
  }
  waiting.erase(rank_);
  for (const int rank : waiting) notices.emplace_back(rank, StallNotice{id});
}

Status StallMonitor::give_up_on_leader(const Channel& channel, Clock::time_point now) const {
  const auto& [name, oldest] = *std::ranges::min_element(
      channel.pending, {}, [](const auto& entry) { return entry.second->submitted; });
  const std::chrono::duration<double> age = now - oldest->submitted;
  if (age <= kPatience * abort_after_ + 2 * kInterval) return {};
  return Status::error(
      fmt::format("{}: given up after {:.1f} s: rank {} submitted it, rank {} has not answered "
                  "(KOLO_STALL_ABORT_SECONDS)",
                  label(oldest->request), age.count(), rank_, channel.leader()));
}

void StallMonitor::warn_of_leader(Channel& channel, Clock::time_point now) const {
  if (now - channel.quiet_since < kPatience * warn_after_) return;
  channel.quiet_since = now;
  std::vector<std::string> names;
  for (const auto& [name, submission] : channel.pending) {
    names.push_back(label(submission->request));
  }
  std::ranges::sort(names);
  logger_.warn("stalled: rank {} has not submitted {}, for which rank {} waits. {}",
               channel.leader(), fmt::join(names, ", "), rank_, kHowToEnd);
}

}  // namespace kolo::core
