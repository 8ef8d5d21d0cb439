// Programs that must work, with ranks as threads.

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include "job.h"
#include "programs.h"

namespace kolo::core {
namespace {

using job::Job;
using programs::Call;
using programs::Recipe;
using programs::Set;

constexpr int kSeeds = 200;
constexpr int kTensorsInFlight = 10'000;

class CoordinatorTest : public ::testing::TestWithParam<std::tuple<int, Job::Planes>> {
 protected:
  Job job_{std::get<0>(GetParam()), std::get<1>(GetParam())};
};

std::string name_of(const ::testing::TestParamInfo<CoordinatorTest::ParamType>& test) {
  const auto& [size, planes] = test.param;
  return fmt::format("{}{}", job::name_of(planes), size);
}

INSTANTIATE_TEST_SUITE_P(Ranks, CoordinatorTest,
                         ::testing::Combine(::testing::Values(1, 2, 3, 4, 8), job::kAllPlanes),
                         name_of);

TEST_P(CoordinatorTest, EveryKindTypeAndSize) {
  job_.run([](Context& context) {
    const Set all = programs::world(context);
    std::vector<Call> calls;
    const auto call = [&](Recipe recipe) {
      recipe.name = fmt::format("t{}", calls.size());
      recipe.seed = calls.size();
      calls.emplace_back(context, all, recipe);
    };
    for (int d = 0; d < kDataTypeCount; ++d) {
      const auto dtype = static_cast<DataType>(d);
      for (const std::int64_t count : {0, 1, 3, 1023}) {
        for (int o = 0; o < kReduceOpCount; ++o) {
          const auto op = static_cast<ReduceOp>(o);
          if (dtype == DataType::Bool && op == ReduceOp::Average) continue;
          call({.dtype = dtype, .op = op, .count = count});
          call({.kind = CollectiveKind::Reducescatter, .dtype = dtype, .op = op, .count = count});
        }
        const std::size_t last = all.ranks.size() - 1;
        call({.kind = CollectiveKind::Broadcast, .dtype = dtype, .count = count});
        call({.kind = CollectiveKind::Broadcast,
              .dtype = dtype,
              .root_member = last,
              .count = count});
        call({.kind = CollectiveKind::Allgather, .dtype = dtype, .count = count});
        call({.kind = CollectiveKind::Alltoall, .dtype = dtype, .count = count});
      }
    }
    call({.kind = CollectiveKind::Barrier});
    for (const Call& done : calls) done.check();
  });
}

TEST_P(CoordinatorTest, EachRankInAnOrderOfItsOwn) {
  job_.run([](Context& context) {
    const Set all = programs::world(context);
    for (std::uint64_t seed = 0; seed < kSeeds; ++seed) {
      programs::run_in_random_order(context, all, 16, seed);
    }
  });
}

TEST_P(CoordinatorTest, WithoutFusion) {
  job_.config.fusion_threshold = 0;
  job_.run([](Context& context) {
    programs::run_in_random_order(context, programs::world(context), 300, 1);
  });
}

// More buffers than may be in flight at a time.
TEST_P(CoordinatorTest, WithSmallBuffers) {
  job_.config.fusion_threshold = 256;
  job_.run([](Context& context) {
    programs::run_in_random_order(context, programs::world(context), 300, 2);
  });
}

TEST_P(CoordinatorTest, TwoThreadsSubmitAtOnce) {
  job_.run([](Context& context) {
    const Set all = programs::world(context);
    std::vector<std::jthread> threads;
    for (int thread = 0; thread < 2; ++thread) {
      threads.emplace_back([&, thread] {
        for (int i = 0; i < 50; ++i) {
          std::vector<Call> calls;
          for (int k = 0; k < 5; ++k) {
            const auto seed = static_cast<std::uint64_t>((thread * 50 + i) * 5 + k);
            const std::string name = fmt::format("{}.{}", thread, k);
            calls.emplace_back(context, all, programs::random_recipe(name, seed, all));
          }
          for (const Call& call : calls) call.check();
        }
      });
    }
  });
}

TEST_P(CoordinatorTest, TwoSetsWithTheSameMembers) {
  job_.run([](Context& context) { programs::run_two_sets(context, 20); });
}

TEST_P(CoordinatorTest, OverlappingSets) {
  if (job_.size() < 3) GTEST_SKIP() << "needs three ranks";
  job_.run([](Context& context) {
    const int rank = context.topology().rank;
    const std::vector<std::vector<int>> members = {{0, 1}, {1, 2}, {0, 2}};
    std::vector<Set> own;
    for (std::size_t i = 0; i < members.size(); ++i) {
      const Set set = programs::add_set(context, fmt::format("set{}", i), members[i]);
      if (std::ranges::find(members[i], rank) != members[i].end()) own.push_back(set);
    }
    for (std::uint64_t round = 0; round < 30; ++round) {
      std::vector<std::jthread> threads;
      for (const Set& set : own) {
        threads.emplace_back([&context, &set, round] {
          programs::run_in_random_order(context, set, 6, 100 * set.channel + round);
        });
      }
      threads.clear();
      programs::run_in_random_order(context, programs::world(context), 3, round);
    }
  });
}

// A set is used by one member as soon as it knows it, while its leader may still be on the way.
TEST_P(CoordinatorTest, NewSetsAreUsedAtOnce) {
  job_.run([](Context& context) {
    const Set all = programs::world(context);
    for (int i = 0; i < 20; ++i) {
      Set most = all;
      if (most.ranks.size() > 1) most.ranks.erase(most.ranks.begin());
      most = programs::add_set(context, "most", most.ranks);
      const bool member = context.topology().rank >= most.ranks.front();
      if (member) programs::run(context, most, {.name = "t", .count = 3});
    }
  });
}

// ---- programs named in the design ----

// Gradients are in flight when a layer in the middle of backward needs a sum at once, as a batch
// normalisation over all ranks does.
TEST_P(CoordinatorTest, BlockingAllreduceWhileOthersAreInFlight) {
  job_.run([](Context& context) {
    const Set all = programs::world(context);
    for (std::uint64_t step = 0; step < 20; ++step) {
      std::vector<Call> gradients;
      for (std::uint64_t layer = 0; layer < 10; ++layer) {
        Recipe recipe{.name = fmt::format("gradient{}", layer), .op = ReduceOp::Average};
        recipe.count = 1000;
        recipe.seed = step * 10 + layer;
        gradients.emplace_back(context, all, recipe);
        if (layer % 3 != 0) continue;
        programs::run(context, all, {.name = "statistics", .count = 16, .seed = step + layer});
      }
      for (const Call& gradient : gradients) gradient.check();
    }
  });
}

// The metric is reduced over whole steps; evaluation comes between steps, and a broadcast right
// after backward, before anything has been waited for.
TEST_P(CoordinatorTest, MetricsEvaluationAndBroadcastBetweenSteps) {
  job_.run([](Context& context) {
    const Set all = programs::world(context);
    std::unique_ptr<Call> metric;
    for (std::uint64_t step = 0; step < 20; ++step) {
      std::vector<Call> gradients;
      for (int layer = 0; layer < 5; ++layer) {
        Recipe recipe{.name = fmt::format("gradient{}", layer), .count = 500, .seed = step};
        gradients.emplace_back(context, all, recipe);
      }
      programs::run(context, all,
                    {.name = "seed",
                     .kind = CollectiveKind::Broadcast,
                     .dtype = DataType::Int64,
                     .count = 1,
                     .seed = step});
      if (metric != nullptr) metric->check();
      metric = std::make_unique<Call>(
          context, all, Recipe{.name = "metric", .dtype = DataType::Float64, .seed = step});
      for (const Call& gradient : gradients) gradient.check();
      if (step % 5 == 4) {
        programs::run(context, all, {.name = "correct", .dtype = DataType::Int64, .seed = step});
        programs::run(context, all,
                      {.name = "answers", .kind = CollectiveKind::Allgather, .count = 7});
        programs::run(context, all, {.name = "evaluated", .kind = CollectiveKind::Barrier});
      }
    }
    metric->check();
  });
}

TEST_P(CoordinatorTest, UnnamedOperations) {
  job_.run([](Context& context) {
    const Set all = programs::world(context);
    std::vector<Call> calls;
    for (std::uint64_t i = 0; i < 20; ++i) {
      calls.emplace_back(context, all, programs::random_recipe("", i, all));
    }
    for (const Call& call : calls) call.check();
  });
}

// ---- many ----

class ManyTest : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Ranks, ManyTest, ::testing::Values(1, 2, 4),
                         ::testing::PrintToStringParamName());

TEST_P(ManyTest, TensorsInFlight) {
  Job(GetParam()).run([](Context& context) {
    const Set all = programs::world(context);
    std::vector<int> order(kTensorsInFlight);
    for (int i = 0; i < kTensorsInFlight; ++i) order[static_cast<std::size_t>(i)] = i;
    std::mt19937_64 own(static_cast<unsigned>(context.topology().rank));
    std::ranges::shuffle(order, own);
    std::vector<Call> calls;
    for (const int i : order) {
      Recipe recipe{.name = fmt::format("t{}", i), .count = i % 5};
      recipe.seed = static_cast<std::uint64_t>(i);
      calls.emplace_back(context, all, recipe);
    }
    for (const Call& call : calls) call.check();
  });
}

}  // namespace
}  // namespace kolo::core
