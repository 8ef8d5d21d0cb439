// Ranks that wait for each other, and ranks that are only late, as threads.

#include <array>
#include <random>

#include "ranks_fixture.h"
#include "support/threads.h"

namespace kolo::core {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;
using ::testing::Not;

constexpr auto kWayOut =
    "Neither can go on: every rank of a process set must call the same operations, and run the "
    "same "
    "steps. Has one more batches than another, or skipped one, or stopped early? Let them decide "
    "that "
    "together, or give them equal shards";

class CircleTest : public RanksFixture {
 protected:
  /// With ranks that look after `after`, which decides nothing but how soon a circle is seen.
  void run(int size, milliseconds after, const MeetingBody& body) {
    Job job(size, GetParam());
    job.config.circle_after = after;
    run_meeting(job, body);
  }
};

INSTANTIATE_TEST_SUITE_P(Planes, CircleTest, job::kAllPlanes,
                         [](const auto& test) { return job::name_of(test.param); });

/// Empty when there is none.
std::string message_of(const Status& status) {
  return status.ok() ? std::string() : status.message();
}

std::string wait_for(Context& context, const Set& set, const Recipe& recipe) {
  return message_of(Call(context, set, recipe).wait());
}

// ---- circles ----

TEST_P(CircleTest, BothOperationsStepsAndRanksAreNamed) {
  run(2, milliseconds(20), [](Context& context, int rank, std::barrier<>& meeting) {
    const Set all = programs::world(context);
    context.waiters().note_step(11);
    if (rank == 0) {
      const Waiters::Activity activity(context.waiters(), "in backward of step 12");
      EXPECT_EQ(
          wait_for(context, all, {.name = "group", .plan = 1}),
          fmt::format("allreduce 'group': the ranks wait for each other: rank 0 is in backward of "
                      "step 12, rank 1 in all-reduce 'loss' after step 11. {}",
                      kWayOut));
    } else {
      EXPECT_EQ(
          wait_for(context, all, {.name = "loss"}),
          fmt::format("allreduce 'loss': the ranks wait for each other: rank 0 is in backward of "
                      "step 12, rank 1 in all-reduce 'loss' after step 11. {}",
                      kWayOut));
    }
    // It lasts.
    EXPECT_THAT(wait_for(context, all, {.name = "next"}), HasSubstr("wait for each other"));
    meeting.arrive_and_wait();
  });
}

// Rank 0 hears of it when it wants something.
TEST_P(CircleTest, OneThatComputesDoesNotHideTheOthers) {
  run(3, milliseconds(20), [](Context& context, int rank, std::barrier<>& meeting) {
    const Set all = programs::world(context);
    const auto circle = AllOf(HasSubstr("rank 1 is in barrier 'b'"),
                              HasSubstr("rank 2 in broadcast 'c'"), Not(HasSubstr("rank 0")));
    if (rank == 0) {
      meeting.arrive_and_wait();
      EXPECT_THAT(wait_for(context, all, {.name = "b", .kind = CollectiveKind::Barrier}), circle);
      return;
    }
    const Recipe recipe = rank == 1 ? Recipe{.name = "b", .kind = CollectiveKind::Barrier}
                                    : Recipe{.name = "c", .kind = CollectiveKind::Broadcast};
    EXPECT_THAT(wait_for(context, all, recipe), circle);
    meeting.arrive_and_wait();
  });
}

TEST_P(CircleTest, AcrossProcessSets) {
  run(3, milliseconds(20), [](Context& context, int rank, std::barrier<>&) {
    const std::array<Set, 3> pairs = {programs::add_set(context, "01", {0, 1}),
                                      programs::add_set(context, "12", {1, 2}),
                                      programs::add_set(context, "02", {0, 2})};
    // Each waits for the next one, in a negotiated operation or in a plan's.
    const Set& set = rank == 0 ? pairs[0] : rank == 1 ? pairs[1] : pairs[2];
    const Recipe recipe{.name = fmt::format("of {}", rank), .plan = rank == 1 ? 1U : 0U};
    EXPECT_THAT(wait_for(context, set, recipe),
                HasSubstr("rank 0 is in all-reduce 'of 0', rank 1 in all-reduce 'of 1', rank 2 in "
                          "all-reduce 'of 2'. "));
  });
}

TEST_P(CircleTest, AProcessSetThatOneRankMakes) {
  run(3, milliseconds(20), [](Context& context, int rank, std::barrier<>&) {
    const auto circle = AllOf(HasSubstr("rank 1 "), HasSubstr("in add_process_set 'pair'"));
    if (rank == 1) {
      EXPECT_THAT(message_of(programs::add_set_async(context, "pair", {0, 1})->wait()), circle);
    } else {
      EXPECT_THAT(wait_for(context, programs::world(context), {.name = "t"}), circle);
    }
  });
}

// The others have all that it takes: only who waits has to be told apart from who has submitted.
TEST_P(CircleTest, WhatWasSubmittedIsNotWaitedFor) {
  run(2, milliseconds(5), [](Context& context, int rank, std::barrier<>&) {
    const Set all = programs::world(context);
    const Call a(context, all, {.name = "a"});
    const Call plan(context, all, {.name = "p", .plan = 1});
    if (rank == 0) std::this_thread::sleep_for(milliseconds(50));
    const Call b(context, all, {.name = "b"});
    (rank == 0 ? a : b).check();
    plan.check();
    (rank == 0 ? b : a).check();
  });
}

// ---- threads ----

TEST_P(CircleTest, AllThreadsOfARankCount) {
  run(2, milliseconds(5), [](Context& context, int rank, std::barrier<>&) {
    const Set all = programs::world(context);
    const Set other = programs::add_set(context, "other", all.ranks);
    // One thread of each rank waits for what the other rank's is to submit later.
    std::jthread slow([&] {
      programs::run(context, other, {.name = "known"});
      std::this_thread::sleep_for(milliseconds(100));
      programs::run(context, other, {.name = rank == 0 ? "y" : "x"});
    });
    programs::run(context, other, {.name = rank == 0 ? "x" : "y"});
  });
}

TEST_P(CircleTest, ThreadsThatAllWait) {
  run(2, milliseconds(20), [](Context& context, int rank, std::barrier<>&) {
    const Set all = programs::world(context);
    const Set other = programs::add_set(context, "other", all.ranks);
    const auto circle =
        AllOf(HasSubstr("'w'"), HasSubstr("'x'"), HasSubstr("'y'"), HasSubstr("'z'"));
    // And one more, which has used Kolo, and waits for these to end.
    std::jthread second(
        [&] { EXPECT_THAT(wait_for(context, other, {.name = rank == 0 ? "w" : "x"}), circle); });
    std::jthread first(
        [&] { EXPECT_THAT(wait_for(context, all, {.name = rank == 0 ? "y" : "z"}), circle); });
  });
}

// ---- late, but right ----

// Others wait for a hundred times as long as it takes to look.
TEST_P(CircleTest, WhoComputesIsWaitedFor) {
  run(3, milliseconds(2), [](Context& context, int rank, std::barrier<>&) {
    const Set all = programs::world(context);
    for (int late = 0; late < 3; ++late) {
      programs::run(context, all, {.name = "before"});
      if (rank == late) std::this_thread::sleep_for(milliseconds(200));
      const Recipe plan{.name = "group", .plan = 1};
      programs::run(context, all, late == 1 ? plan : Recipe{.name = "validation"});
    }
  });
}

// The leader, which is to tell, is late.
TEST_P(CircleTest, AnErrorOnItsWayIsWaitedFor) {
  run(3, milliseconds(2), [](Context& context, int rank, std::barrier<>&) {
    const Set all = programs::world(context);
    for (int round = 0; round < 3; ++round) {
      if (rank == 0) std::this_thread::sleep_for(milliseconds(60));
      if (rank == 1) {
        Submission refused;
        refused.request.name = "x";
        refused.request.refusal = "too sparse";
        EXPECT_FALSE(context.submit(std::move(refused))->wait().ok());
      } else {
        EXPECT_THAT(wait_for(context, all, {.name = "x"}), HasSubstr("too sparse"));
      }
      programs::run(context, all, {.name = "y"});
    }
  });
}

/// As a user's thread: now and then it computes for longer than ranks wait before they say so.
void be_late(std::uint64_t seed) {
  std::mt19937_64 random(seed);
  if (random() % 4 == 0) std::this_thread::sleep_for(microseconds(random() % 4000));
}

TEST_P(CircleTest, RightProgramsAreNotEnded) {
  testing::run_ranks(8, [&](int lane) {
    for (std::uint64_t seed = static_cast<unsigned>(lane); seed < 64; seed += 8) {
      Job job(2 + static_cast<int>(seed % 2), GetParam(), seed);
      job.config.circle_after = milliseconds(1);
      run_meeting(job, [seed](Context& context, int rank, std::barrier<>&) {
        const Set all = programs::world(context);
        const Set pair = programs::add_set(context, "pair", {0, 1});
        const auto late = [seed, rank](Recipe& recipe) {
          be_late(1009 * seed + 31 * recipe.seed + static_cast<unsigned>(rank));
        };
        for (std::uint64_t i = 0; i < 6; ++i) {
          Recipe recurring{.name = "metric", .seed = 2 * i, .awaited = true, .runs = true};
          if ((seed + i) % 4 == 0) recurring.dtype = DataType::Int32;
          late(recurring);
          programs::run(context, all, recurring);
          if (rank < 2) programs::run(context, pair, programs::random_recipe("r", seed + i, pair));
        }
        programs::run_in_random_order(context, all, 6, seed, late);
        programs::run_plans(context, all, 4, seed, late);
        if (seed % 8 == 0) programs::run_two_sets(context, 2, late);
      });
    }
  });
}

// ---- random programs that deviate ----

/// The operation in step `step` of a random program.
Recipe step_of(std::uint64_t seed, int step, const Set& set) {
  Recipe recipe = programs::random_recipe(fmt::format("s{}", step),
                                          seed * 31 + static_cast<unsigned>(step), set);
  recipe.awaited = true;
  // A name that recurs, an optimizer's round, or an operation that is negotiated.
  switch ((seed / 3 + static_cast<unsigned>(step)) % 3) {
    case 0:
      return {.name = step % 2 == 0 ? "even" : "odd", .awaited = true, .runs = true};
    case 1:
      return {.name = fmt::format("s{}", step), .plan = 1U + static_cast<unsigned>(step % 2)};
    default:
      return recipe;
  }
}

// One rank leaves out a step, after which everybody waits for it, and it for them; or it makes two
// steps in the other order.
TEST_P(CircleTest, EveryDeviationEndsInAnErrorThatNamesIt) {
  constexpr std::uint64_t kSeeds = 170;
  testing::run_ranks(10, [&](int lane) {
    for (std::uint64_t seed = static_cast<unsigned>(lane); seed < kSeeds; seed += 10) {
      const int size = 2 + static_cast<int>(seed % 2);
      Job job(size, GetParam(), seed);
      job.config.circle_after = milliseconds(10);
      job.config.log_level = "off";
      run_meeting(job, [&](Context& context, int rank, std::barrier<>&) {
        const Set all = programs::world(context);
        std::mt19937_64 random(seed);
        const int wrong = static_cast<int>(random() % 8);
        const int deviant = static_cast<int>(random() % static_cast<unsigned>(size));
        for (int step = 0; step < wrong; ++step) {
          programs::run(context, all, step_of(seed, step, all));
        }
        const int here = rank == deviant ? wrong + 1 : wrong;
        const Recipe first = step_of(seed, here, all);
        const Recipe other = step_of(seed, rank == deviant ? wrong : wrong + 1, all);
        const std::string error = wait_for(context, all, first);
        EXPECT_THAT(error, AllOf(HasSubstr("wait for each other"),
                                 HasSubstr(fmt::format("'{}'", first.name)),
                                 HasSubstr(fmt::format("'{}'", other.name)),
                                 HasSubstr(fmt::format("rank {} ", deviant))))
            << "seed " << seed;
      });
    }
  });
}

}  // namespace
}  // namespace kolo::core
