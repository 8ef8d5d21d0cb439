// Any list of tensors, in any order.

#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <algorithm>
#include <numeric>

#include "engine/group_planner.h"

namespace kolo::core {
namespace {

std::int64_t bytes_of(const PlanGroup& group) {
  return group.elements * static_cast<std::int64_t>(size_of(group.dtype));
}

TEST(GroupPlanner, KeepsItsPromisesForAnyTensors) {
  const bool held = rc::check([] {
    const auto count = *rc::gen::inRange<std::size_t>(0, 40);
    std::vector<PlannedTensor> tensors(count);
    for (PlannedTensor& tensor : tensors) {
      tensor.dtype = *rc::gen::element(DataType::Float32, DataType::BFloat16, DataType::Float64);
      tensor.elements = *rc::gen::inRange<std::int64_t>(0, 3000);
    }
    std::vector<std::size_t> order(count);
    std::iota(order.begin(), order.end(), std::size_t{0});
    for (std::size_t i = count; i > 1; --i) {
      std::swap(order[i - 1], order[*rc::gen::inRange<std::size_t>(0, i)]);
    }
    const GroupLimits limits{.first = *rc::gen::inRange<std::size_t>(0, 9000),
                             .each = *rc::gen::inRange<std::size_t>(0, 30000)};

    const std::vector<PlanGroup> groups = plan_groups(tensors, order, limits);
    std::vector<std::size_t> seen;
    for (std::size_t g = 0; g < groups.size(); ++g) {
      const PlanGroup& group = groups[g];
      RC_ASSERT(!group.slots.empty());
      const std::size_t limit = g == 0 ? limits.first : limits.each;
      if (group.slots.size() > 1) RC_ASSERT(bytes_of(group) <= static_cast<std::int64_t>(limit));
      std::int64_t end = 0;
      for (const PlanGroup::Slot& slot : group.slots) {
        seen.push_back(slot.tensor);
        RC_ASSERT(tensors[slot.tensor].dtype == group.dtype);
        RC_ASSERT(slot.offset >= end);
        const auto element = static_cast<std::int64_t>(size_of(group.dtype));
        RC_ASSERT(slot.offset * element % static_cast<std::int64_t>(kSlotAlignment) == 0);
        end = slot.offset + tensors[slot.tensor].elements;
      }
      RC_ASSERT(end <= group.elements);
    }
    RC_ASSERT(seen == order);
  });
  EXPECT_TRUE(held);
}

TEST(GroupPlanner, FillsGroupsUpToTheLimit) {
  const std::vector<PlannedTensor> tensors(6, {DataType::Float32, 16});
  const std::vector<std::size_t> order = {5, 4, 3, 2, 1, 0};
  const auto groups = plan_groups(tensors, order, {.first = 64, .each = 192});
  ASSERT_EQ(groups.size(), 3U);
  EXPECT_EQ(groups[0].slots.size(), 1U);
  EXPECT_EQ(groups[1].slots.size(), 3U);
  EXPECT_EQ(groups[1].slots[0].tensor, 4U);
  EXPECT_EQ(groups[2].elements, 32);
}

}  // namespace
}  // namespace kolo::core
