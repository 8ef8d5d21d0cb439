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
#include "engine/executor.h"
#include "wire/messages.h"

namespace kolo::core {

/// A leader knows who is missing: it warns, and gives up on an operation, after the configured times. A
/// leader that has itself submitted nothing sleeps and does neither, so its members do both for it, a
/// little later. Of an operation that was started each rank knows who is missing, and the first of them
/// warns. Used by one thread at a time.
class StallMonitor {
 public:
  /// How often it looks, at most.
  static constexpr std::chrono::milliseconds kInterval{500};

  /// What to send, and to whom.
  using Notices = std::vector<std::pair<int, StallNotice>>;

  StallMonitor(const Config& config, int rank, spdlog::logger& logger);

  /// Looks at what waits for an agreement, and at what has been started. The notices are for ranks that
  /// need not report the same. Fails when this rank has waited too long for a silent leader, or for ranks
  /// that do not come to an operation.
  Result<Notices> check(std::map<ChannelId, Channel>& channels, const Executor& executor,
                        Clock::time_point now);

 private:
  void give_up(Negotiator& negotiator, Clock::time_point now) const;
  void warn(ChannelId id, Channel& channel, Clock::time_point now, Notices& notices) const;
  Status give_up_on_leader(const Channel& channel, Clock::time_point now) const;
  void warn_of_leader(Channel& channel, Clock::time_point now) const;
  Status check_started(const Executor& executor, Clock::time_point now);

  const std::chrono::duration<double> warn_after_;
  const std::chrono::duration<double> abort_after_;
  const int rank_;
  spdlog::logger& logger_;
  Clock::time_point next_check_{};
  /// When an operation that was started has last been reported.
  Clock::time_point last_report_{};
};

}  // namespace kolo::core
