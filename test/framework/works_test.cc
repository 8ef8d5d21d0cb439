// Collectives under way at the same time: their handles, names, threads and sets of ranks.

#include <algorithm>
#include <map>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include "framework/ops_oracle.h"

namespace kolo::testing {
namespace {

TEST_F(OpsTest, NamesMayBeUsedAgain) {
  for (int i = 0; i < 5; ++i) {
    expect_values(kolo::allreduce(own_values({4}, torch::kFloat64, i), {.name = "again"}),
                  reduced({4}, torch::kFloat64, i, ReduceOp::Average, all_ranks()));
  }
}

TEST_F(OpsTest, WorkIsAHandle) {
  Work work = kolo::allreduce_async(own_values({4}, torch::kFloat64, 9));
  Work copy = work;
  copy.wait();
  work.synchronize();
  EXPECT_TRUE(work.done() && copy.done());
  EXPECT_TRUE(work.result().is_same(copy.result()));
  EXPECT_FALSE(kolo::barrier_async().result().defined());
}

TEST_F(OpsTest, WorkThatIsDropped) {
  for (int i = 0; i < 20; ++i) {
    // The tensors go out of scope at once, too.
    torch::Tensor tensor = own_values({2000}, torch::kFloat64, i);
    (void)kolo::allreduce_async_(tensor);
    (void)kolo::broadcast_async(tensor.slice(0, 0, 2000, 3), 0);
    (void)kolo::allgather_async(own_values({i}, torch::kFloat64, i));
    (void)kolo::barrier_async();
  }
  expect_usable();
}

TEST_F(OpsTest, AnotherOrderOnEachRank) {
  constexpr int kCount = 30;
  std::vector<int> order(kCount);
  std::iota(order.begin(), order.end(), 0);
  std::rotate(order.begin(), order.begin() + 7 * kolo::rank(), order.end());
  if (kolo::rank() % 2 == 1) std::reverse(order.begin(), order.end());
  std::map<int, Work> works;
  for (const int i : order) {
    const std::string name = "order." + std::to_string(i);
    const torch::Tensor input = own_values({i * 11}, torch::kFloat64, i);
    if (i % 3 == 0) works.emplace(i, kolo::allreduce_async(input, {.name = name}));
    if (i % 3 == 1)
      works.emplace(i, kolo::broadcast_async(input, i % kolo::size(), {.name = name}));
    if (i % 3 == 2) works.emplace(i, kolo::allgather_async(input, {.name = name}));
  }
  for (auto& [i, work] : works) {
    const torch::Tensor result = work.result();
    if (i % 3 == 0) {
      expect_values(result, reduced({i * 11}, torch::kFloat64, i, ReduceOp::Average, all_ranks()));
    }
    if (i % 3 == 1) {
      EXPECT_TRUE(identical(result, values({i * 11}, torch::kFloat64, i, i % kolo::size())));
    }
    if (i % 3 == 2) {
      EXPECT_EQ(result.numel(), i * 11 * kolo::size());
    }
  }
}

TEST_F(OpsTest, SeveralThreads) {
  const auto work = [](int thread) {
    for (int i = 0; i < 20; ++i) {
      const int seed = 100 * thread + i;
      const std::string name = "thread." + std::to_string(thread);
      expect_values(kolo::allreduce(own_values({50}, torch::kFloat64, seed), {.name = name}),
                    reduced({50}, torch::kFloat64, seed, ReduceOp::Average, all_ranks()));
    }
  };
  std::thread other(work, 1);
  work(2);
  other.join();
}

TEST_F(OpsTest, ProcessSets) {
  std::vector<int> even;
  std::vector<int> odd;
  for (const int rank : all_ranks()) (rank % 2 == 0 ? even : odd).push_back(rank);
  if (odd.empty()) odd = even;
  const ProcessSet evens = kolo::add_process_set(even);
  const ProcessSet odds = kolo::add_process_set(odd);
  const ProcessSet twins[] = {kolo::add_process_set(all_ranks()), kolo::add_process_set({0})};
  const bool is_even = kolo::rank() % 2 == 0;
  const std::vector<int>& mine = is_even ? even : odd;
  const ProcessSet set = is_even ? evens : odds;
  for (int i = 0; i < 10; ++i) {
    const torch::Tensor input = own_values({20}, torch::kFloat64, i);
    Work world = kolo::allreduce_async(input, {.name = "x"});
    Work twin = kolo::allreduce_async(input, {.name = "x", .process_set = twins[0]});
    expect_values(kolo::allreduce(input, {.name = "x", .process_set = set}),
                  reduced({20}, torch::kFloat64, i, ReduceOp::Average, mine));
    EXPECT_TRUE(identical(kolo::broadcast(input, mine.back(), {.process_set = set}),
                          values({20}, torch::kFloat64, i, mine.back())));
    EXPECT_EQ(kolo::allgather(input, {.process_set = set}).size(0),
              20 * static_cast<std::int64_t>(mine.size()));
    kolo::barrier({.process_set = set});
    if (kolo::rank() == 0) {
      EXPECT_TRUE(identical(kolo::allreduce(input, {.process_set = twins[1]}), input));
    }
    EXPECT_TRUE(identical(world.result(), twin.result()));
  }
}

TEST_F(OpsTest, TwoSetsOfTheSameRanksInTwoThreads) {
  const ProcessSet sets[] = {kolo::add_process_set(all_ranks()),
                             kolo::add_process_set(all_ranks())};
  const auto work = [&sets](std::size_t thread) {
    for (int i = 0; i < 20; ++i) {
      // Unnamed: each set counts for itself.
      expect_values(
          kolo::allreduce(own_values({50}, torch::kFloat64, i), {.process_set = sets[thread]}),
          reduced({50}, torch::kFloat64, i, ReduceOp::Average, all_ranks()));
    }
  };
  std::thread other(work, 0U);
  work(1);
  other.join();
}

}  // namespace
}  // namespace kolo::testing
