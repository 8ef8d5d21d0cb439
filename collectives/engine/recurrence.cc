#include "engine/recurrence.h"

#include <algorithm>

namespace kolo::core {
namespace {

/// Of names that the leader remembers at a time: many programs number theirs.
constexpr std::size_t kMostRemembered = 4096;

}  // namespace

PlanId RecurrenceFinder::find(const Request& request, bool all_wait) {
  const bool can_recur = all_wait && request.kind == CollectiveKind::Allreduce &&
                         request.device == DeviceType::Cpu &&
                         next_ <= kMostPlans + kMostRecurringNames;
  if (!can_recur) return 0;
  const auto found = last_.find(request.name);
  if (found == last_.end()) {
    if (last_.size() == kMostRemembered) last_.clear();
    last_.emplace(request.name, request);
    return 0;
  }
  if (found->second != request) {
    found->second = request;
    return 0;
  }
  last_.erase(found);
  return next_++;
}

void RecurringNames::add(const Request& request, PlanId plan) {
  names_[request.name] = {.request = request, .plan = plan};
}

bool RecurringNames::has(PlanId plan) const {
  return std::ranges::any_of(names_, [plan](const auto& entry) { return entry.second.plan == plan; });
}

RecurringNames::Name* RecurringNames::find(std::string_view name) {
  const auto found = names_.find(name);
  return found == names_.end() ? nullptr : &found->second;
}

}  // namespace kolo::core
