#pragma once

/// What the engine does, told to the timeline.

#include <cstddef>
#include <span>

#include "engine/timeline.h"
#include "engine/work.h"

namespace kolo::core {

/// The stations of a group of operations that ran as one.
struct GroupTimes {
  Clock::time_point agreed, started, packed, reduced, unpacked;
  /// All members had come; only known where it is asked for.
  Clock::time_point met;

  /// A GPU had its turn when it had.
  void follow(const DeviceTimes& times) {
    started = times.started;
    packed = times.packed;
    reduced = times.reduced;
    unpacked = times.unpacked;
  }
};

/// Used by one thread at a time.
class EngineTrace {
 public:
  explicit EngineTrace(Timeline& timeline);

  /// A tensor was ready at `submission.submitted`, and all ranks have agreed on it now.
  void negotiated(const Submission& submission, Clock::time_point now);

  /// Another rank's part of the trace.
  void relayed(std::string_view lines) { timeline_.append(lines); }

  /// A group of all of these has run.
  void ran(std::span<const Submission* const> group, std::size_t bytes, const GroupTimes& times);

 private:
  Timeline& timeline_;
  const Timeline::Track negotiation_;
  Lanes ready_;
  Lanes groups_;
};

}  // namespace kolo::core
