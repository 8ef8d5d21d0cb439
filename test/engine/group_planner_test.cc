// Any list of tensors, in any order.

#include "engine/group_planner.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <algorithm>
#include <numeric>
#include <tuple>
#include <utility>

namespace kolo::core {
namespace {

/// A group's bytes, by the definition.
std::size_t padded_bytes(const std::vector<PlannedTensor>& tensors,
                         std::span<const std::size_t> group) {
  std::size_t sum = 0;
  for (const std::size_t index : group) {
    const auto elements = static_cast<std::size_t>(tensors[index].elements);
    sum += (elements * size_of(tensors[index].dtype) + 63) / 64 * 64;
  }
  return sum;
}

std::vector<PlannedTensor> any_tensors(std::size_t count, std::vector<DataType> dtypes,
                                       std::vector<DeviceType> devices = {DeviceType::Cpu,
                                                                          DeviceType::Cuda}) {
  std::vector<PlannedTensor> tensors(count);
  for (PlannedTensor& tensor : tensors) {
    tensor.dtype = *rc::gen::elementOf(dtypes);
    tensor.elements = *rc::gen::inRange<std::int64_t>(0, 3000);
    tensor.device = *rc::gen::elementOf(devices);
  }
  return tensors;
}

std::vector<std::size_t> any_order(std::size_t count) {
  std::vector<std::size_t> order(count);
  std::iota(order.begin(), order.end(), std::size_t{0});
  for (std::size_t i = count; i > 1; --i) {
    std::swap(order[i - 1], order[*rc::gen::inRange<std::size_t>(0, i)]);
  }
  return order;
}

std::vector<std::size_t> flat(const Grouping& groups) {
  std::vector<std::size_t> order;
  for (const auto& group : groups) order.insert(order.end(), group.begin(), group.end());
  return order;
}

bool is_allowed(const std::vector<PlannedTensor>& tensors, std::span<const std::size_t> group,
                std::size_t limit) {
  return !group.empty() && std::ranges::all_of(group, [&](std::size_t index) {
    return tensors[index].dtype == tensors[group.front()].dtype &&
           tensors[index].device == tensors[group.front()].device;
  }) && (group.size() == 1 || padded_bytes(tensors, group) <= limit);
}

TEST(GroupPlanner, BySizeKeepsItsPromisesForAnyTensors) {
  EXPECT_TRUE(rc::check([] {
    const auto count = *rc::gen::inRange<std::size_t>(0, 40);
    const auto tensors =
        any_tensors(count, {DataType::Float32, DataType::BFloat16, DataType::Float64});
    const std::vector<std::size_t> order = any_order(count);
    const GroupLimits limits{.first = *rc::gen::inRange<std::size_t>(0, 9000),
                             .each = *rc::gen::inRange<std::size_t>(0, 30000)};

    const Grouping groups = group_by_size(tensors, order, limits);
    for (std::size_t g = 0; g < groups.size(); ++g) {
      RC_ASSERT(is_allowed(tensors, groups[g], g == 0 ? limits.first : limits.each));
    }
    RC_ASSERT(flat(groups) == order);
  }));
}

TEST(GroupPlanner, BySizeFillsGroupsUpToTheLimit) {
  const std::vector<PlannedTensor> tensors(6, {DataType::Float32, 16});
  const std::vector<std::size_t> order = {5, 4, 3, 2, 1, 0};
  const Grouping expected = {{5}, {4, 3, 2}, {1, 0}};
  EXPECT_EQ(group_by_size(tensors, order, {.first = 64, .each = 192}), expected);
}

TEST(GroupPlanner, LaysTensorsOutOneBehindTheOther) {
  EXPECT_TRUE(rc::check([] {
    const auto count = *rc::gen::inRange<std::size_t>(1, 20);
    const auto dtype = *rc::gen::element(DataType::Float32, DataType::BFloat16, DataType::Bool);
    const auto device = *rc::gen::element(DeviceType::Cpu, DeviceType::Cuda);
    const auto tensors = any_tensors(count, {dtype}, {device});
    const std::vector<std::size_t> order = any_order(count);

    const PlanGroup group = lay_out(tensors, order);
    RC_ASSERT(group.dtype == dtype);
    RC_ASSERT(group.device == device);
    RC_ASSERT(group.slots.size() == count);
    const auto element = static_cast<std::int64_t>(size_of(dtype));
    std::int64_t end = 0;
    for (std::size_t i = 0; i < count; ++i) {
      RC_ASSERT(group.slots[i].tensor == order[i]);
      RC_ASSERT(group.slots[i].offset >= end);
      RC_ASSERT(group.slots[i].offset * element % static_cast<std::int64_t>(kSlotAlignment) == 0);
      end = group.slots[i].offset + tensors[order[i]].elements;
    }
    RC_ASSERT(end <= group.elements);
    RC_ASSERT(static_cast<std::size_t>(group.elements * element) == padded_bytes(tensors, order));
    RC_ASSERT(bytes_of(tensors, order) == padded_bytes(tensors, order));
  }));
}

// ---- by time ----

struct Problem {
  std::vector<PlannedTensor> tensors;
  std::vector<std::size_t> order;
  std::vector<double> ready;
  TransferCost cost;
  std::size_t limit = 0;

  Grouping solve() const { return group_by_time(tensors, order, ready, cost, limit); }
};

/// Times are multiples of a microsecond, so that ties are frequent.
Problem any_problem(std::size_t count) {
  Problem problem{.tensors = any_tensors(count, {DataType::Float32, DataType::BFloat16}),
                  .order = any_order(count),
                  .ready = std::vector<double>(count)};
  double now = 0;
  for (const std::size_t index : problem.order) {
    problem.ready[index] = now;
    now += 1e-6 * *rc::gen::inRange(0, 20);
  }
  problem.cost.latency = 1e-6 * *rc::gen::inRange(0, 20);
  problem.cost.per_byte = 1e-6 / 1024 * *rc::gen::inRange(0, 8);
  problem.limit = *rc::gen::element<std::size_t>(0, 9000, 30000, 1 << 20);
  return problem;
}

/// When the last group ends, by the definition.
double end_of(const Problem& problem, const Grouping& groups) {
  double end = 0;
  for (const auto& group : groups) {
    double ready = 0;
    for (const std::size_t index : group) ready = std::max(ready, problem.ready[index]);
    end = std::max(end, ready) + problem.cost.latency +
          problem.cost.per_byte * static_cast<double>(padded_bytes(problem.tensors, group));
  }
  return end;
}

bool is_allowed(const Problem& problem, const Grouping& groups) {
  return flat(groups) == problem.order && std::ranges::all_of(groups, [&](const auto& group) {
           return is_allowed(problem.tensors, group, problem.limit);
         });
}

/// The earliest end of all ways to cut the sequence, and the fewest groups that reach it.
std::pair<double, std::size_t> search_all(const Problem& problem) {
  std::vector<std::pair<double, std::size_t>> found;
  const std::size_t count = problem.order.size();
  for (std::size_t cuts = 0; cuts < std::size_t{1} << (count - 1); ++cuts) {
    Grouping groups;
    for (std::size_t i = 0; i < count; ++i) {
      if (i == 0 || (cuts >> (i - 1) & 1) != 0) groups.emplace_back();
      groups.back().push_back(problem.order[i]);
    }
    if (is_allowed(problem, groups)) found.emplace_back(end_of(problem, groups), groups.size());
  }
  const double earliest = std::ranges::min(found).first;
  std::size_t fewest = count;
  for (const auto& [end, groups] : found) {
    if (end <= earliest + 1e-9) fewest = std::min(fewest, groups);
  }
  return {earliest, fewest};
}

TEST(GroupPlanner, ByTimeIsTheBestOfAllCuts) {
  EXPECT_TRUE(rc::check([] {
    const auto counts = rc::gen::inRange<std::size_t>(1, 11);
    const Problem problem = any_problem(*rc::gen::resize(rc::kNominalSize, counts));
    const Grouping groups = problem.solve();
    RC_ASSERT(is_allowed(problem, groups));
    const auto [end, count] = search_all(problem);
    RC_ASSERT(end_of(problem, groups) <= end + 1e-9);
    RC_ASSERT(groups.size() == count);
    RC_ASSERT(std::abs(predict_end(groups, problem.tensors, problem.ready, problem.cost) -
                       end_of(problem, groups)) < 1e-12);
  }));
}

TEST(GroupPlanner, ByTimeIsNeverLaterWhenSomethingIsFaster) {
  EXPECT_TRUE(rc::check([] {
    const Problem problem = any_problem(*rc::gen::inRange<std::size_t>(1, 40));
    const double end = end_of(problem, problem.solve());
    RC_ASSERT(end <= end_of(problem, group_by_size(problem.tensors, problem.order,
                                                   {problem.limit, problem.limit})) +
                         1e-9);
    Problem faster = problem;
    faster.cost.latency /= 2;
    RC_ASSERT(end_of(faster, faster.solve()) <= end + 1e-9);
    faster = problem;
    faster.cost.per_byte /= 2;
    RC_ASSERT(end_of(faster, faster.solve()) <= end + 1e-9);
    faster = problem;
    for (double& ready : faster.ready) ready /= 2;
    RC_ASSERT(end_of(faster, faster.solve()) <= end + 1e-9);
    faster = problem;
    faster.limit *= 2;
    RC_ASSERT(end_of(faster, faster.solve()) <= end + 1e-9);
  }));
}

/// Four tensors of 64 KiB.
Problem four_tensors(std::vector<double> ready, TransferCost cost) {
  return {.tensors = std::vector<PlannedTensor>(4, {DataType::Float32, 1 << 14}),
          .order = {3, 2, 1, 0},
          .ready = std::move(ready),
          .cost = cost,
          .limit = 1 << 20};
}

TEST(GroupPlanner, ByTimeMakesOneGroupOfWhatIsReadyAtOnce) {
  const Grouping expected = {{3, 2, 1, 0}};
  EXPECT_EQ(four_tensors({0, 0, 0, 0}, {20e-6, 1e-10}).solve(), expected);
  EXPECT_EQ(four_tensors({0, 0, 0, 0}, {0, 1e-10}).solve(), expected) << "fewest of equals";
}

TEST(GroupPlanner, ByTimeKeepsTheLastGroupSmall) {
  // The first three are through before the last one is ready, together as well as each by itself.
  const Grouping expected = {{3, 2, 1}, {0}};
  EXPECT_EQ(four_tensors({9e-3, 2e-3, 1e-3, 0}, {20e-6, 1e-10}).solve(), expected);
}

TEST(GroupPlanner, ByTimeStartsEarlyWhereTransfersAreSlow) {
  const Grouping expected = {{3}, {2}, {1}, {0}};
  EXPECT_EQ(four_tensors({3e-3, 2e-3, 1e-3, 0}, {20e-6, 1e-8}).solve(), expected);
}

TEST(GroupPlanner, ByTimeOfNothingIsNothing) { EXPECT_EQ(Problem{}.solve(), Grouping{}); }

/// The same, by dynamic programming over all places to cut, with 0, 1, 2, … groups.
std::pair<double, std::size_t> search_by_number(const Problem& problem) {
  const std::size_t count = problem.order.size();
  constexpr double kNever = 1e300;
  std::vector<std::vector<double>> end = {std::vector<double>(count + 1, kNever)};
  end[0][0] = 0;
  for (std::size_t groups = 1; groups <= count; ++groups) {
    std::vector<double> longer(count + 1, kNever);
    for (std::size_t from = 0; from < count; ++from) {
      double ready = 0;
      for (std::size_t to = from + 1; to <= count && end.back()[from] < kNever; ++to) {
        const auto group = std::span(problem.order).subspan(from, to - from);
        if (!is_allowed(problem.tensors, group, problem.limit)) break;
        ready = std::max(ready, problem.ready[group.back()]);
        const auto bytes = static_cast<double>(padded_bytes(problem.tensors, group));
        longer[to] = std::min(longer[to], std::max(ready, end.back()[from]) +
                                              problem.cost.latency + problem.cost.per_byte * bytes);
      }
    }
    end.push_back(std::move(longer));
  }
  double earliest = kNever;
  for (const auto& row : end) earliest = std::min(earliest, row[count]);
  std::size_t fewest = 0;
  while (end[fewest][count] > earliest + 1e-9) ++fewest;
  return {earliest, fewest};
}

TEST(GroupPlanner, ByTimeIsAsGoodAsASearchOfAllPlaces) {
  EXPECT_TRUE(rc::check([] {
    const Problem problem = any_problem(*rc::gen::inRange<std::size_t>(1, 40));
    const Grouping groups = problem.solve();
    RC_ASSERT(is_allowed(problem, groups));
    const auto [end, count] = search_by_number(problem);
    RC_ASSERT(end_of(problem, groups) <= end + 2e-9);
    RC_ASSERT(groups.size() == count);
  }));
}

/// Whatever is slow in them: transfers, latency, or neither. A search that looked at pairs of places would take
/// half an hour.
TEST(GroupPlanner, ByTimeCopesWithAMillionTensors) {
  constexpr std::size_t kCount = 1'000'000;
  Problem problem{.tensors = std::vector<PlannedTensor>(kCount, {DataType::Float32, 16}),
                  .order = std::vector<std::size_t>(kCount)};
  std::iota(problem.order.begin(), problem.order.end(), std::size_t{0});
  for (std::size_t i = 0; i < kCount; ++i) problem.ready.push_back(1e-6 * static_cast<double>(i));
  problem.limit = std::size_t{256} << 20;
  for (const TransferCost cost : {TransferCost{.latency = 5e-6, .per_byte = 1e-8},
                                  TransferCost{.latency = 1e-3, .per_byte = 1e-12},
                                  TransferCost{.latency = 0, .per_byte = 0}}) {
    problem.cost = cost;
    const Grouping groups = problem.solve();
    EXPECT_TRUE(is_allowed(problem, groups));
    EXPECT_LE(end_of(problem, groups), end_of(problem, {problem.order}) + 1e-9);
  }
}

}  // namespace
}  // namespace kolo::core
