// The programs of coordinator_test.cc with ranks as processes, over the planes of a real job.

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "context/context.h"
#include "programs.h"

namespace kolo::core {
namespace {

using programs::Call;
using programs::Recipe;
using programs::Set;
using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr std::uint64_t kSeeds = 100;

std::unique_ptr<Context> create(const Config& config = {}) {
  Result<std::unique_ptr<Context>> context = Context::create(config, connect_to_job);
  EXPECT_TRUE(context.ok()) << context.status().message();
  return std::move(context).value();
}

TEST(MpiRanks, EachRankInAnOrderOfItsOwn) {
  const auto context = create();
  const Set all = programs::world(*context);
  for (std::uint64_t seed = 0; seed < kSeeds; ++seed) {
    programs::run_in_random_order(*context, all, 16, seed);
  }
}

TEST(MpiRanks, ManyTensorsInFlight) {
  const auto context = create({.fusion_threshold = 4096});
  programs::run_in_random_order(*context, programs::world(*context), 1000, 1);
}

TEST(MpiRanks, TwoSetsWithTheSameMembers) {
  const auto context = create();
  programs::run_two_sets(*context, 10);
}

TEST(MpiRanks, NewSetsAreUsedAtOnce) {
  const auto context = create();
  Set most = programs::world(*context);
  if (most.ranks.size() > 1) most.ranks.erase(most.ranks.begin());
  for (int i = 0; i < 20; ++i) {
    most = programs::add_set(*context, "most", most.ranks);
    const bool member = context->topology().rank >= most.ranks.front();
    if (member) programs::run(*context, most, {.name = "t", .count = 3});
  }
}

TEST(MpiRanks, OneIsRefusedAndAllGoOn) {
  const auto context = create();
  const Set all = programs::world(*context);
  const int last = all.ranks.back();
  for (std::uint64_t i = 0; i < 10; ++i) {
    Recipe recipe{.name = "t", .dtype = DataType::Int32, .seed = i};
    if (context->topology().rank == last) recipe.prescale = 2;
    const Call bad(*context, all, recipe);
    const Status status = bad.work().wait();
    ASSERT_FALSE(status.ok());
    EXPECT_THAT(status.message(), AllOf(HasSubstr("'t'"), HasSubstr("prescale"),
                                        HasSubstr(fmt::format("rank {}", last))));
    programs::run(*context, all, {.name = "t", .seed = i});
  }
}

TEST(MpiRanks, PlansAmongNegotiatedOperations) {
  const auto context = create();
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    programs::run_plans(*context, programs::world(*context), 20, seed);
  }
}

TEST(MpiRanks, LeaveWithOperationsPending) {
  for (unsigned i = 0; i < 10; ++i) {
    const auto context = create();
    const Set all = programs::world(*context);
    const auto made = programs::add_set_async(*context, "set", all.ranks);
    std::vector<Call> calls;
    for (unsigned k = 0; k < 5; ++k) {
      calls.emplace_back(*context, all, Recipe{.name = fmt::format("t{}", k)});
      if ((k + i) % all.ranks.size() == static_cast<unsigned>(context->topology().rank)) break;
    }
    context->leave();
    EXPECT_TRUE(made->done());
    for (const Call& call : calls) {
      ASSERT_TRUE(call.work().done());
      if (call.work().wait().ok()) call.check();
    }
  }
}

}  // namespace
}  // namespace kolo::core
