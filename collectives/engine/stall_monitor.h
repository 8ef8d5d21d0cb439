#pragma once

/// Names the ranks that others wait for.

#include <chrono>
#include <map>
#include <utility>
#include <vector>

#include "base/config.h"
#include "base/log.h"
#include "base/status.h"
#include "engine/channel.h"
#include "wire/messages.h"

namespace kolo::core {

/// A leader knows who is missing: it warns, and gives up on an operation, after the configured times. A
/// leader that has itself submitted nothing sleeps and does neither, so its members do both for it, a
/// little later. Used by one thread, the coordinator's.
class StallMonitor {
 public:
  /// How often it looks, at most.
  static constexpr std::chrono::milliseconds kInterval{500};

  /// What to send, and to whom.
  using Notices = std::vector<std::pair<int, StallNotice>>;

  StallMonitor(const Config& config, int rank, spdlog::logger& logger);

  /// Looks at all channels. The notices are for ranks that need not report the same. Fails when this
  /// rank has waited too long for a silent leader.
  Result<Notices> check(std::map<ChannelId, Channel>& channels, Clock::time_point now);

 private:
  void give_up(Negotiator& negotiator, Clock::time_point now) const;
  void warn(ChannelId id, Channel& channel, Clock::time_point now, Notices& notices) const;
  Status give_up_on_leader(const Channel& channel, Clock::time_point now) const;
  void warn_of_leader(Channel& channel, Clock::time_point now) const;

  const std::chrono::duration<double> warn_after_;
  const std::chrono::duration<double> abort_after_;
  const int rank_;
  spdlog::logger& logger_;
  Clock::time_point next_check_{};
};

}  // namespace kolo::core
