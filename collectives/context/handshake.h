#pragma once

/// The first words between ranks, before the coordinator starts.

#include <chrono>
#include <string>
#include <vector>

#include "base/config.h"
#include "base/doorbell.h"
#include "base/status.h"
#include "control/control_plane.h"

namespace kolo::core {

struct Agreement {
  /// The moment, on rank 0's clock, that a timeline calls 0.
  std::chrono::steady_clock::time_point timeline_origin;
  /// Added to this rank's clock to get rank 0's, as near as one message tells; 0 on rank 0's host,
  /// where all processes have the same clock.
  std::chrono::nanoseconds clock_offset{0};
  /// On rank 0, for the log, if not empty: what ranks would better have alike.
  std::string warning;
  /// What ranks that have started already have said besides.
  std::vector<Envelope> early;
};

/// Collective: returns when all ranks have called it. Fails on every rank when one is not `ready`, or
/// when settings that must be the same everywhere are not, naming the ranks and both values.
Result<Agreement> shake_hands(const Config& config, const Status& ready, ControlPlane& control,
                              Doorbell& doorbell);

}  // namespace kolo::core
