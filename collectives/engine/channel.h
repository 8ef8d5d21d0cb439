#pragma once

/// A process set as one of its ranks sees it.

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "engine/negotiator.h"
#include "engine/recurrence.h"
#include "engine/work.h"

namespace kolo::core {

struct Channel {
  /// Ascending; the first one leads.
  std::vector<int> ranks;
  /// Submitted here and not yet answered, by their names.
  std::unordered_map<std::string_view, SubmissionPtr> pending;
  RecurringNames recurring;
  /// How often this rank has heard "go ahead", and, by name, how many of its operations have failed.
  std::uint64_t go_aheads = 0;
  std::unordered_map<std::string, std::uint64_t> failures;
  /// On the leader only.
  std::unique_ptr<Negotiator> negotiator;
  /// Since when pending has not been empty, or a stall has last been reported.
  Clock::time_point quiet_since;

  std::uint64_t failures_of(const std::string& name) const {
    const auto found = failures.find(name);
    return found != failures.end() ? found->second : 0;
  }

  int leader() const { return ranks.front(); }
  /// A submission of this rank under that name has to be answered, or, where it recurs, done before
  /// the next.
  bool in_use(std::string_view name) {
    const RecurringNames::Name* const recurs = recurring.find(name);
    return pending.contains(name) || (recurs != nullptr && recurs->in_use());
  }
  /// The index of `rank`.
  int member(int rank) const {
    return static_cast<int>(std::ranges::lower_bound(ranks, rank) - ranks.begin());
  }
};

}  // namespace kolo::core
