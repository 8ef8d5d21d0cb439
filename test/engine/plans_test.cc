// Operations that all ranks submit in the same order, among others, and with ranks that leave.

#include <array>
#include <atomic>
#include <map>
#include <random>
#include <thread>
#include <variant>

#include "ranks_fixture.h"
#include "wire/codec.h"

namespace kolo::core {
namespace {

class PlansTest : public RanksFixture {};

INSTANTIATE_TEST_SUITE_P(Planes, PlansTest, job::kAllPlanes,
                         [](const auto& test) { return job::name_of(test.param); });

TEST_P(PlansTest, PlansAmongNegotiatedOperations) {
  for (std::uint64_t seed = 0; seed < 100; ++seed) {
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
        calls[static_cast<std::size_t>(rank)] = std::make_unique<Call>(
            context, programs::world(context), Recipe{.name = "g", .plan = 1});
      }
    });
    for (int rank = 1; rank < size; ++rank) {
      const std::string error = error_of(calls[static_cast<std::size_t>(rank)]->work());
      if (GetParam() == Job::Planes::Silent) {
        // What one member of the operation has heard, the other may not have heard yet.
        EXPECT_THAT(error,
                    ::testing::AnyOf(HasSubstr("rank 0 has shut down"), HasSubstr("gave up")));
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

/// Once it is told to be deaf, it hears nothing until it has said that it leaves.
class DeafControl final : public job::ForwardingControl {
 public:
  DeafControl(std::unique_ptr<ControlPlane> plane, std::atomic<bool>& deaf, std::atomic<int>& leaves)
      : ForwardingControl(std::move(plane)), deaf_(deaf), leaves_(leaves) {}

  Status send(int destination, std::span<const std::byte> bytes) override {
    Status status = ForwardingControl::send(destination, bytes);
    if (std::holds_alternative<Leave>(decode(bytes).value())) {
      deaf_ = false;
      ++leaves_;
    }
    return status;
  }
  Result<std::optional<Envelope>> receive() override {
    return deaf_ ? std::optional<Envelope>() : ForwardingControl::receive();
  }

 private:
  std::atomic<bool>& deaf_;
  std::atomic<int>& leaves_;
};

// It tells the new set's leader that it leaves, which is also the leader of the plan's set.
TEST_P(PlansTest, LeavesBeforeItHearsOfANewSet) {
  std::atomic<bool> deaf = false;
  std::atomic<int> leaves = 0;
  std::unique_ptr<Call> last;
  Job job(3, GetParam());
  job.wrap_control = [&](int rank, std::unique_ptr<ControlPlane> plane) {
    return rank != 2 ? std::move(plane)
                     : std::make_unique<DeafControl>(std::move(plane), deaf, leaves);
  };
  run_meeting(job, [&](Context& context, int rank, std::barrier<>& meeting) {
    const Set all = programs::world(context);
    const auto group = [&](std::uint64_t number) {
      return Call(context, all, {.name = fmt::format("group {}", number), .seed = number, .plan = 1});
    };
    group(0).check();
    const Set pair = programs::add_set(context, "pair", {0, 1});
    std::shared_ptr<Work> added;
    if (rank != 2) {
      added = programs::add_set_async(context, "new", {0, 2});
      programs::run(context, pair, {.name = "both have asked for it"});
    }
    meeting.arrive_and_wait();
    if (rank == 2) {
      deaf = true;
      last = std::make_unique<Call>(group(1));
      programs::add_set_async(context, "new", {0, 2});
      return;
    }
    EXPECT_TRUE(added->wait().ok());
    while (leaves < 2) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    programs::run(context, pair, {.name = "both have heard it"});
    group(1).check();
  });
  last->check();
}

// ---- plans that end ----

TEST_P(PlansTest, EndsWhileOthersWaitInIt) {
  for (int ender = 0; ender < 3; ++ender) {
    run(3, [ender](Context& context, int rank, std::barrier<>& meeting) {
      const Set all = programs::world(context);
      const auto group = [&](PlanId plan, std::uint64_t number) {
        return Call(context, all,
                    {.name = fmt::format("group {}", number), .seed = number, .plan = plan});
      };
      Call(context, all, {.name = "known"}).check();
      group(1, 0).check();
      // The ender has submitted one operation more of plan 1, and none of plan 2; it goes on with
      // plan 3.
      const Call last = group(1, 1);
      if (rank == ender) {
        context.end_plan(kWorldChannel, 1);
        context.end_plan(kWorldChannel, 2);
      } else {
        const std::string ended = fmt::format("rank {} has destroyed its optimizer", ender);
        EXPECT_THAT(error_of(group(1, 2).work()), AllOf(HasSubstr("'group 2'"), HasSubstr(ended)));
        EXPECT_THAT(error_of(group(1, 3).work()), AllOf(HasSubstr("'group 3'"), HasSubstr(ended)));
        EXPECT_THAT(error_of(group(2, 4).work()), AllOf(HasSubstr("'group 4'"), HasSubstr(ended)));
      }
      last.check();
      group(3, 5).check();
      meeting.arrive_and_wait();
      if (rank != ender) context.end_plan(kWorldChannel, 1);
      group(3, 6).check();
    });
  }
}

/// Counts what it is told.
class CountingData final : public job::ForwardingData {
 public:
  using Ended = std::map<ChannelId, int>;

  CountingData(std::unique_ptr<DataPlane> plane, Ended& ended)
      : ForwardingData(std::move(plane)), ended_(ended) {}
  Result<std::unique_ptr<Operation>> start(const Collective& collective) override {
    EXPECT_FALSE(ended_.contains(collective.channel)) << "used after its end";
    return ForwardingData::start(collective);
  }
  void end_channel(ChannelId channel) override {
    ++ended_[channel];
    ForwardingData::end_channel(channel);
  }

 private:
  Ended& ended_;
};

// One after the other, as an optimizer in each epoch: nothing is left of any, and nobody sees an
// error. Some end with an operation in flight, and ranks leave at once after the last.
TEST_P(PlansTest, NothingIsLeftOfAPlanThatAllHaveEnded) {
  constexpr PlanId kPlans = 12;
  for (std::uint64_t seed = 0; seed < 12; ++seed) {
    const int size = 1 + static_cast<int>(seed % 4);
    std::vector<CountingData::Ended> ended(static_cast<std::size_t>(size));
    Job job(size, GetParam(), seed);
    job.wrap_data = [&](int rank, std::unique_ptr<DataPlane> plane) {
      return std::make_unique<CountingData>(std::move(plane),
                                            ended[static_cast<std::size_t>(rank)]);
    };
    std::vector<std::vector<Call>> unread(static_cast<std::size_t>(size));
    job.run([&](Context& context) {
      const Set all = programs::world(context);
      Call(context, all, {.name = "known"}).check();
      for (PlanId plan = 1; plan <= kPlans; ++plan) {
        for (std::uint64_t number = 0; number < 3; ++number) {
          Call group(context, all,
                     {.name = fmt::format("{}.{}", plan, number), .seed = number, .plan = plan});
          if (number == 2 && plan % 2 == 0) {
            unread[static_cast<std::size_t>(context.topology().rank)].push_back(std::move(group));
          } else {
            group.check();
          }
        }
        context.end_plan(kWorldChannel, plan);
      }
      // Of this one nothing was submitted.
      context.end_plan(kWorldChannel, kPlans + 1);
    });
    for (int rank = 0; rank < size; ++rank) {
      const CountingData::Ended& there = ended[static_cast<std::size_t>(rank)];
      EXPECT_EQ(there.size(), kPlans) << "rank " << rank;
      for (const auto& [channel, times] : there) {
        EXPECT_EQ(times, 1) << "rank " << rank << ", plan " << channel / kMostProcessSets;
      }
      for (const Call& call : unread[static_cast<std::size_t>(rank)]) call.check();
    }
  }
}

// One rank ends a plan, and goes on or leaves; the others find that out, and end it as well.
TEST_P(PlansTest, EndsAtAnyMomentOfTheOthersPlans) {
  constexpr std::uint64_t kOperations = 20;
  for (std::uint64_t seed = 0; seed < 120; ++seed) {
    std::mt19937_64 random(seed);
    const int size = 2 + static_cast<int>(seed % 3);
    const int ender = static_cast<int>(random() % static_cast<unsigned>(size));
    const std::uint64_t most = random() % kOperations;
    const bool leaves = random() % 2 == 0;
    run(size, [&](Context& context, int rank, std::barrier<>&) {
      const Set all = programs::world(context);
      Call(context, all, {.name = "known"}).check();
      std::vector<Call> calls;
      for (std::uint64_t number = 0; number < (rank == ender ? most : kOperations); ++number) {
        calls.emplace_back(context, all,
                           Recipe{.name = fmt::format("group {}", number),
                                  .count = static_cast<std::int64_t>(number * 100),
                                  .seed = number,
                                  .plan = 1});
      }
      if (rank == ender) context.end_plan(kWorldChannel, 1);
      if (rank == ender && leaves) return;
      for (std::uint64_t number = 0; number < calls.size(); ++number) {
        if (number < most) {
          calls[number].check();
        } else {
          EXPECT_THAT(error_of(calls[number].work()),
                      HasSubstr(fmt::format("rank {} has destroyed its optimizer", ender)));
        }
      }
      if (rank != ender) context.end_plan(kWorldChannel, 1);
      if (!leaves) Call(context, all, {.name = "after"}).check();
    });
  }
}

TEST_P(PlansTest, EndAfterShutdownIsNothing) {
  run(2, [](Context& context, int, std::barrier<>&) {
    Call(context, programs::world(context), {.name = "group", .plan = 1}).check();
    context.leave();
    context.end_plan(kWorldChannel, 1);
  });
}

}  // namespace
}  // namespace kolo::core
