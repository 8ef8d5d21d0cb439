// Operations that all ranks submit in the same order, among others, and with ranks that leave. Every error
// must be there within 5 seconds.

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <barrier>
#include <chrono>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "job.h"
#include "programs.h"
#include "ranks_fixture.h"

namespace kolo::core {
namespace {

using job::error_of;
using job::Job;
using programs::Call;
using programs::Recipe;
using programs::Set;
using ::testing::AllOf;
using ::testing::HasSubstr;

class PlansTest : public RanksFixture {};

INSTANTIATE_TEST_SUITE_P(Planes, PlansTest, job::kAllPlanes,
                         [](const auto& test) { return job::name_of(test.param); });

TEST_P(PlansTest, PlansAmongNegotiatedOperations) {
  for (std::uint64_t seed = 0; seed < 50; ++seed) {
    run(1 + static_cast<int>(seed % 4), [seed](Context& context, int rank, std::barrier<>&) {
      programs::run_plans(context, programs::world(context), 12, seed);
      if (context.topology().size < 3) return;
      const Set some = programs::add_set(context, "some", {0, 2});
      if (rank == 0 || rank == 2) programs::run_plans(context, some, 12, seed);
    });
  }
}

TEST_P(PlansTest, LeavesWhileOthersWaitInAPlan) {
  for (int leaver = 0; leaver < 3; ++leaver) {
    run(3, [leaver](Context& context, int rank, std::barrier<>& meeting) {
      const Set all = programs::world(context);
      const auto group = [&](PlanId plan, std::uint64_t number) {
        return Call(context, all,
                    {.name = fmt::format("group {}", number), .seed = number, .plan = plan});
      };
      group(1, 0).check();
      // The leaver has submitted one operation more of plan 1, and none of plan 2.
      const Call last = group(1, 1);
      if (rank != leaver) {
        const Call lonely = group(1, 2);
        const Call other = group(2, 3);
        meeting.arrive_and_wait();
        last.check();
        const std::string left = fmt::format("rank {} has shut down", leaver);
        EXPECT_THAT(error_of(lonely.work()), AllOf(HasSubstr("'group 2'"), HasSubstr(left)));
        EXPECT_THAT(error_of(other.work()), AllOf(HasSubstr("'group 3'"), HasSubstr(left)));
        EXPECT_THAT(error_of(group(1, 4).work()), HasSubstr(left));
        EXPECT_THAT(error_of(group(3, 5).work()), HasSubstr(left));
      } else {
        meeting.arrive_and_wait();
      }
    });
  }
}

// Ranks 1 and up leave with an operation in flight, rank 0 without having submitted it.
TEST_P(PlansTest, LeaveWithAPlanInFlight) {
  for (std::uint64_t seed = 0; seed < 60; ++seed) {
    std::mt19937_64 random(seed);
    const int size = 2 + static_cast<int>(seed % 2);
    const std::chrono::microseconds delay(random() % 400);
    std::vector<std::unique_ptr<Call>> calls(static_cast<std::size_t>(size));
    run(size, [&](Context& context, int rank, std::barrier<>& meeting) {
      meeting.arrive_and_wait();
      if (rank == 0) {
        std::this_thread::sleep_for(delay);
      } else {
        calls[static_cast<std::size_t>(rank)] =
            std::make_unique<Call>(context, programs::world(context), Recipe{.name = "g", .plan = 1});
      }
    });
    for (int rank = 1; rank < size; ++rank) {
      const std::string error = error_of(calls[static_cast<std::size_t>(rank)]->work());
      if (GetParam() == Job::Planes::Silent) {
        // What one member of the operation has heard, the other may not have heard yet.
        EXPECT_THAT(error, ::testing::AnyOf(HasSubstr("rank 0 has shut down"), HasSubstr("gave up")));
      } else {
        EXPECT_THAT(error, HasSubstr("rank 0 has shut down"));
      }
    }
  }
}

TEST_P(PlansTest, LeavesAtAnyMomentOfTheOthersPlans) {
  constexpr std::uint64_t kOperations = 20;
  for (std::uint64_t seed = 0; seed < 170; ++seed) {
    std::mt19937_64 random(seed);
    const int size = 2 + static_cast<int>(seed % 3);
    const int leaver = static_cast<int>(random() % static_cast<unsigned>(size));
    // How many operations of each plan the leaver submits.
    const std::array<std::uint64_t, 2> most = {random() % kOperations, random() % kOperations};
    run(size, [&](Context& context, int rank, std::barrier<>&) {
      const Set all = programs::world(context);
      std::mt19937_64 own(seed * 64 + static_cast<unsigned>(rank));
      std::array<std::uint64_t, 2> next{};
      std::vector<std::pair<bool, Call>> calls;
      while (true) {
        const std::size_t plan = own() % 2;
        const auto end = [&](std::size_t p) { return rank == leaver ? most[p] : kOperations; };
        if (next[0] == end(0) && next[1] == end(1)) break;
        if (next[plan] == end(plan)) continue;
        const std::uint64_t number = next[plan]++;
        calls.emplace_back(number < most[plan],
                           Call(context, all,
                                {.name = fmt::format("{}.{}", plan, number),
                                 .count = static_cast<std::int64_t>(number * 100),
                                 .seed = number,
                                 .plan = static_cast<PlanId>(plan + 1)}));
      }
      for (const auto& [complete, call] : calls) {
        if (complete) {
          call.check();
        } else {
          EXPECT_THAT(error_of(call.work()), HasSubstr(fmt::format("rank {} has shut", leaver)));
        }
      }
    });
  }
}

}  // namespace
}  // namespace kolo::core
