// Blocking all-reduces that recur under one name, and ranks that deviate from what recurred.

#include <algorithm>
#include <atomic>
#include <optional>
#include <random>

#include "engine/negotiator.h"
#include "ranks_fixture.h"
#include "replies.h"

namespace kolo::core {
namespace {

/// Counts the operations of each channel that a rank starts.
class CountingData final : public job::ForwardingData {
 public:
  CountingData(std::unique_ptr<DataPlane> plane, std::atomic<int>& of_names)
      : ForwardingData(std::move(plane)), of_names_(of_names) {}

  Result<std::unique_ptr<Operation>> start(const Collective& collective) override {
    Result<std::unique_ptr<Operation>> operation = ForwardingData::start(collective);
    const bool of_name = collective.channel >= plan_channel(0, kMostPlans + 1);
    if (!of_name || !operation.ok()) return operation;
    ++of_names_;
    return std::unique_ptr<Operation>(
        std::make_unique<Counted>(std::move(operation).value(), of_names_));
  }

 private:
  class Counted final : public job::ForwardingOperation {
   public:
    Counted(std::unique_ptr<Operation> operation, std::atomic<int>& of_names)
        : ForwardingOperation(std::move(operation)), of_names_(of_names) {}
    bool begin_again(std::uint64_t sequence, void* output) override {
      const bool begun = ForwardingOperation::begin_again(sequence, output);
      if (begun) ++of_names_;
      return begun;
    }

   private:
    std::atomic<int>& of_names_;
  };

  std::atomic<int>& of_names_;
};

class RecurrenceTest : public RanksFixture {
 protected:
  /// As RanksFixture does; `of_names_` counts what all ranks have started in plans of names.
  void run_counting(int size, const MeetingBody& body) {
    Job job(size, GetParam());
    job.wrap_data = [this](int, std::unique_ptr<DataPlane> plane) {
      return std::make_unique<CountingData>(std::move(plane), of_names_);
    };
    run_meeting(job, body);
  }

  std::atomic<int> of_names_{0};
};

INSTANTIATE_TEST_SUITE_P(Planes, RecurrenceTest, job::kAllPlanes,
                         [](const auto& test) { return job::name_of(test.param); });

/// The plan that a leader of two ranks gives the name when both have asked for this.
PlanId agree(Negotiator& negotiator, const Request& request) {
  for (int rank = 0; rank < 2; ++rank)
    negotiator.add(rank, list_of({request}), Clock::time_point());
  return negotiator.take_replies().to_all.at(0).plan;
}

Request awaited(const std::string& name) {
  Request request;
  request.name = name;
  request.awaited = true;
  return request;
}

TEST(RecurrenceFinderTest, FindsTheSameRequestTheSecondTime) {
  Negotiator negotiator({0, 1}, /*names_recur=*/true);
  Request request = awaited("loss");
  EXPECT_EQ(agree(negotiator, request), 0U);
  request.dtype = DataType::Int32;
  EXPECT_EQ(agree(negotiator, request), 0U);
  EXPECT_EQ(agree(negotiator, request), kMostPlans + 1);
  // If it is asked about, again, the ranks have left the plan.
  EXPECT_EQ(agree(negotiator, request), 0U);
  EXPECT_EQ(agree(negotiator, request), kMostPlans + 2);

  request.kind = CollectiveKind::Broadcast;
  for (int i = 0; i < 3; ++i) EXPECT_EQ(agree(negotiator, request), 0U);
  request = awaited("gpu");
  request.device = DeviceType::Cuda;
  for (int i = 0; i < 3; ++i) EXPECT_EQ(agree(negotiator, request), 0U);
}

TEST(RecurrenceFinderTest, HasNoMorePlansThanThereAre) {
  Negotiator negotiator({0, 1}, /*names_recur=*/true);
  std::uint32_t plans = 0;
  for (std::uint32_t i = 0; i < kMostRecurringNames + 10; ++i) {
    const Request request = awaited(fmt::format("loss {}", i));
    agree(negotiator, request);
    if (agree(negotiator, request) != 0) ++plans;
  }
  EXPECT_EQ(plans, kMostRecurringNames);
}

TEST(RecurrenceFinderTest, FindsNothingWherePlanesCarryNoDeclines) {
  Negotiator negotiator({0, 1});
  for (int i = 0; i < 3; ++i) EXPECT_EQ(agree(negotiator, awaited("loss")), 0U);
}

Recipe loss(std::uint64_t seed, std::int64_t count = 3) {
  return {.name = "loss", .count = count, .seed = seed, .awaited = true};
}

/// The same, by a rank that goes on meanwhile.
Recipe async_loss(std::uint64_t seed, std::int64_t count = 3) {
  Recipe recipe = loss(seed, count);
  recipe.awaited = false;
  return recipe;
}

TEST_P(RecurrenceTest, TheThirdTimeNobodyIsAsked) {
  constexpr int kTimes = 8;
  for (const std::int64_t count : {0, 1, 300, 5000, 70'000}) {
    of_names_ = 0;
    run_counting(3, [count](Context& context, int, std::barrier<>&) {
      for (std::uint64_t i = 0; i < kTimes; ++i) {
        programs::run(context, programs::world(context), loss(i, count));
      }
    });
    EXPECT_EQ(of_names_, 3 * (kTimes - 2)) << count;
  }
}

TEST_P(RecurrenceTest, WhatNobodyWaitsForIsNegotiated) {
  run_counting(2, [](Context& context, int rank, std::barrier<>&) {
    for (std::uint64_t i = 0; i < 5; ++i) {
      Call(context, programs::world(context), rank == 0 ? loss(i) : async_loss(i)).check();
    }
  });
  EXPECT_EQ(of_names_, 0);
}

TEST_P(RecurrenceTest, AnotherShapeOnAllRanks) {
  run_counting(3, [](Context& context, int, std::barrier<>&) {
    for (std::uint64_t i = 0; i < 40; ++i) {
      programs::run(context, programs::world(context), loss(i, 1 + static_cast<int>(i) / 5));
    }
  });
  // Of five times, two are negotiated; the first of the next five is declined once.
  EXPECT_EQ(of_names_, 3 * (8 * 3 + 7));
}

TEST_P(RecurrenceTest, AnotherShapeOnOneRank) {
  for (int other = 0; other < 3; ++other) {
    run(3, [other](Context& context, int rank, std::barrier<>&) {
      const Set all = programs::world(context);
      for (std::uint64_t i = 0; i < 4; ++i) programs::run(context, all, loss(i));
      const Call call(context, all, async_loss(4, rank == other ? 4 : 3));
      EXPECT_THAT(error_of(call.work()), AllOf(HasSubstr("'loss': shape differs"),
                                               HasSubstr(fmt::format("rank {}", other)),
                                               HasSubstr("[4]"), HasSubstr("[3]")));
      for (std::uint64_t i = 5; i < 9; ++i) programs::run(context, all, loss(i));
    });
  }
}

TEST_P(RecurrenceTest, RefusedOnOneRank) {
  run(3, [](Context& context, int rank, std::barrier<>&) {
    const Set all = programs::world(context);
    for (std::uint64_t i = 0; i < 4; ++i) programs::run(context, all, loss(i));
    if (rank == 1) {
      Submission submission;
      submission.request.name = "loss";
      submission.request.refusal = "the tensor is undefined";
      const std::shared_ptr<Work> work = context.submit(std::move(submission));
      EXPECT_THAT(error_of(*work), HasSubstr("the tensor is undefined"));
    } else {
      const Call call(context, all, async_loss(4));
      EXPECT_THAT(error_of(call.work()), AllOf(HasSubstr("refused on rank 1"),
                                               HasSubstr("the tensor is undefined")));
    }
    for (std::uint64_t i = 5; i < 9; ++i) programs::run(context, all, loss(i));
  });
}

// In which each rank deviates at times, and one after another: small vectors of many
// go another way.
TEST_P(RecurrenceTest, OthersAmongMany) {
  constexpr int kMany = 7;
  run(kMany, [](Context& context, int rank, std::barrier<>&) {
    const Set all = programs::world(context);
    for (std::uint64_t i = 0; i < 10 * kMany; ++i) {
      if (i % 5 != 4) {
        programs::run(context, all, loss(i));
        continue;
      }
      const bool other = i / 10 == static_cast<unsigned>(rank);
      const Call call(context, all, async_loss(i, other ? 4 : 3));
      EXPECT_THAT(error_of(call.work()), AllOf(HasSubstr("'loss'"), HasSubstr("shape")));
    }
  });
}

TEST_P(RecurrenceTest, LeavesInsteadOfComing) {
  for (int leaver = 0; leaver < 3; ++leaver) {
    run(3, [leaver](Context& context, int rank, std::barrier<>& meeting) {
      const Set all = programs::world(context);
      for (std::uint64_t i = 0; i < 4; ++i) programs::run(context, all, loss(i));
      if (rank == leaver) return meeting.arrive_and_wait();
      const Call call(context, all, async_loss(4));
      meeting.arrive_and_wait();
      const std::string left = fmt::format("rank {} has shut down", leaver);
      EXPECT_THAT(error_of(call.work()), AllOf(HasSubstr("'loss'"), HasSubstr(left)));
      EXPECT_THAT(error_of(Call(context, all, async_loss(5)).work()), HasSubstr(left));
    });
  }
}

// Rank 0 was refused; rank 2 leaves without the operation, which rank 1 takes part in. That fails
// for the first reason, as it does when it is negotiated, and the next one for the second.
TEST_P(RecurrenceTest, LeavesAfterAnotherWasRefused) {
  for (const bool in_flight : {false, true}) {
    run(3, [in_flight](Context& context, int rank, std::barrier<>& meeting) {
      const Set all = programs::world(context);
      for (std::uint64_t i = 0; i < 4; ++i) programs::run(context, all, loss(i));
      std::optional<Call> call;
      if (rank == 1 && in_flight) call.emplace(context, all, async_loss(4));
      if (rank == 0) {
        Submission submission;
        submission.request.name = "loss";
        submission.request.refusal = "the tensor is undefined";
        EXPECT_THAT(error_of(*context.submit(std::move(submission))), HasSubstr("is undefined"));
      }
      meeting.arrive_and_wait();
      if (rank != 1) return;
      if (!in_flight) call.emplace(context, all, async_loss(4));
      EXPECT_THAT(error_of(call->work()),
                  AllOf(HasSubstr("refused on rank 0"), HasSubstr("the tensor is undefined")));
      EXPECT_THAT(error_of(Call(context, all, async_loss(5, 4)).work()),
                  HasSubstr("has shut down"));
    });
  }
}

/// An all-reduce as a caller runs it that waits for nothing else.
Status run_loss(Context& context) {
  const auto values = std::make_shared<std::vector<float>>(3, 1.0F);
  const Shape shape = {3};
  return context.run({.name = "loss",
                      .shape = shape,
                      .memory = values->data(),
                      .owner = [&values] { return values; }});
}

TEST_P(RecurrenceTest, LeavesWhileOthersRun) {
  for (int leaver = 0; leaver < 3; ++leaver) {
    run(3, [leaver](Context& context, int rank, std::barrier<>& meeting) {
      for (int i = 0; i < 5; ++i) ASSERT_TRUE(run_loss(context).ok());
      meeting.arrive_and_wait();
      if (rank == leaver) return std::this_thread::sleep_for(std::chrono::milliseconds(2));
      for (int i = 0; i < 2; ++i) {
        const Status status = run_loss(context);
        ASSERT_FALSE(status.ok());
        EXPECT_THAT(
            status.message(),
            AllOf(HasSubstr("'loss'"), HasSubstr(fmt::format("rank {} has shut down", leaver))));
      }
    });
  }
}

/// Fails the first operation of a name's plan when it starts, or a later one while it runs.
class FaultyData final : public job::ForwardingData {
 public:
  FaultyData(std::unique_ptr<DataPlane> plane, bool at_start)
      : ForwardingData(std::move(plane)), at_start_(at_start) {}

  Result<std::unique_ptr<Operation>> start(const Collective& collective) override {
    const bool of_plan = collective.channel >= plan_channel(0, kMostPlans + 1);
    if (!of_plan) return ForwardingData::start(collective);
    if (at_start_) return Status::error("cable cut");
    if (collective.sequence == kFaulty) return wrap(nullptr);
    Result<std::unique_ptr<Operation>> operation = ForwardingData::start(collective);
    if (!operation.ok()) return operation;
    return wrap(std::move(operation).value());
  }

 private:
  static constexpr std::uint64_t kFaulty = 2;

  /// Fails without an operation, and does not take part in the faulty one.
  class Faulty final : public job::ForwardingOperation {
   public:
    Faulty(std::unique_ptr<Operation> operation, bool cut)
        : ForwardingOperation(std::move(operation)), cut_(cut) {}
    bool begin_again(std::uint64_t sequence, void* output) override {
      cut_ = sequence == kFaulty;
      return cut_ || ForwardingOperation::begin_again(sequence, output);
    }
    Result<Progress> progress() override {
      return cut_ ? Status::error("cable cut") : ForwardingOperation::progress();
    }
    std::vector<int> missing() const override {
      return cut_ ? std::vector<int>() : ForwardingOperation::missing();
    }

   private:
    bool cut_;
  };

  static std::unique_ptr<Operation> wrap(std::unique_ptr<Operation> operation) {
    const bool cut = operation == nullptr;
    return std::make_unique<Faulty>(std::move(operation), cut);
  }

  const bool at_start_;
};

TEST_P(RecurrenceTest, FailsWhileItRuns) {
  for (const bool at_start : {true, false}) {
    Job job(3, GetParam());
    job.wrap_data = [&](int rank, std::unique_ptr<DataPlane> plane) {
      return rank != 1 ? std::move(plane)
                       : std::make_unique<FaultyData>(std::move(plane), at_start);
    };
    std::barrier<> meeting(3);
    job.run([&meeting, at_start](Context& context) {
      for (int i = 0; i < (at_start ? 2 : 4); ++i) ASSERT_TRUE(run_loss(context).ok());
      meeting.arrive_and_wait();
      for (int i = 0; i < 2; ++i) {
        const Status status = run_loss(context);
        ASSERT_FALSE(status.ok());
        EXPECT_THAT(status.message(), AllOf(HasSubstr("'loss'"),
                                            AnyOf(HasSubstr("cable cut"), HasSubstr("gave up"))));
      }
    });
  }
}

// Rank 1 has declined, the others were under way in the name's plan; then some leave, in any order.
// Nobody's log says that anything has failed.
TEST_P(RecurrenceTest, LeavesAfterDeclining) {
  ::testing::internal::CaptureStderr();
  for (std::uint64_t seed = 0; seed < 80; ++seed) {
    run(3, [seed](Context& context, int rank, std::barrier<>&) {
      std::mt19937_64 own(seed * 8 + static_cast<unsigned>(rank));
      const Set all = programs::world(context);
      for (std::uint64_t i = 0; i < 3; ++i) programs::run(context, all, loss(i));
      if (own() % 3 == 0) return;
      const Call call(context, all, async_loss(3, rank == 1 ? 4 : 3));
      if (own() % 2 == 0) return;
      error_of(call.work());
    });
  }
  EXPECT_THAT(::testing::internal::GetCapturedStderr(), ::testing::Not(HasSubstr("error")));
}

// Names of which each may recur, change, or be left out, among plans and negotiated operations,
// each rank in an order of its own, with two threads.
TEST_P(RecurrenceTest, NamesAmongOtherOperations) {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    run(1 + static_cast<int>(seed % 4), [seed](Context& context, int rank, std::barrier<>&) {
      const Set all = programs::world(context);
      const Set same = programs::add_set(context, "same", all.ranks);
      std::jthread other([&] {
        for (std::uint64_t i = 0; i < 12; ++i) programs::run(context, same, loss(i, 1 + i / 4));
      });
      std::mt19937_64 own(seed * 8 + static_cast<unsigned>(rank));
      for (std::uint64_t round = 0; round < 12; ++round) {
        std::vector<std::jthread> threads;
        std::vector<int> names = {0, 1, 2};
        std::ranges::shuffle(names, own);
        for (const int name : names) {
          Recipe recipe = loss(round, 1 + static_cast<std::int64_t>(round + name) / 5 * 400);
          recipe.name = fmt::format("loss {}", name);
          threads.emplace_back([&context, &all, recipe] { programs::run(context, all, recipe); });
        }
        programs::run_in_random_order(context, all, 3, seed * 100 + round);
      }
    });
  }
}

}  // namespace
}  // namespace kolo::core
