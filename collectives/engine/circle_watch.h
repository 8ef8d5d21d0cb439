#pragma once

/// This rank's part in finding ranks that wait for each other (circle.h has the states): it looks
/// whether all its threads wait, says so, asks, and answers.

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/config.h"
#include "base/status.h"
#include "engine/circle.h"
#include "engine/process_sets.h"
#include "engine/waiters.h"
#include "engine/work.h"
#include "wire/messages.h"

namespace kolo::core {

/// Used by who holds the baton. A waiting caller does, so while a rank is blocked there is one that
/// looks.
class CircleWatch {
 public:
  using Send = ProcessSets::Send;

  CircleWatch(const Config& config, int rank, const Waiters& waiters, const ProcessSets& sets,
              Send send);

  /// How long the holder may sleep at most.
  Clock::duration interval() const { return interval_; }

  /// From other ranks.
  Status handle(int source, const Blocked& blocked);
  Status handle(int source, const CircleQuestion& question);
  Status handle(int source, const CircleAnswer& answer);

  /// Whether look() has anything to do.
  bool due(Clock::time_point now) const { return urgent_ || now >= next_look_; }

  /// At the end of a look at everything else: what has arrived by then has been heard. `leaving`:
  /// this rank waits for nothing that others have not promised. Gives what the ranks do that wait
  /// for each other.
  Result<std::optional<std::string>> look(Clock::time_point now, bool leaving);

 private:
  std::optional<std::vector<AwaitedOperation>> awaited() const;
  Status answer(const std::optional<std::vector<AwaitedOperation>>& operations);

  const Clock::duration after_;
  const Clock::duration interval_;
  const int rank_;
  const Waiters& waiters_;
  const ProcessSets& sets_;
  const Send send_;
  CircleDetector detector_;
  std::vector<std::pair<int, CircleQuestion>> questions_;
  bool urgent_ = false;
  Clock::time_point next_look_{};
  /// As of the last look, and since when it is that.
  std::uint64_t epoch_ = 0;
  Clock::time_point since_{};
  bool said_ = false;
};

}  // namespace kolo::core
