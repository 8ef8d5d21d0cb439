#include "engine/group_planner.h"

namespace kolo::core {

std::vector<PlanGroup> plan_groups(std::span<const PlannedTensor> tensors,
                                   std::span<const std::size_t> order, const GroupLimits& limits) {
  std::vector<PlanGroup> groups;
  for (const std::size_t index : order) {
    const PlannedTensor& tensor = tensors[index];
    const auto element = static_cast<std::int64_t>(size_of(tensor.dtype));
    const std::int64_t unit = static_cast<std::int64_t>(kSlotAlignment) / element;
    const std::int64_t taken = (tensor.elements + unit - 1) / unit * unit;
    const auto limit =
        static_cast<std::int64_t>(groups.size() <= 1 ? limits.first : limits.each) / element;
    const bool joins = !groups.empty() && groups.back().dtype == tensor.dtype &&
                       groups.back().elements + taken <= limit;
    if (!joins) groups.push_back({.dtype = tensor.dtype});
    groups.back().slots.push_back({.tensor = index, .offset = groups.back().elements});
    groups.back().elements += taken;
  }
  return groups;
}

}  // namespace kolo::core
