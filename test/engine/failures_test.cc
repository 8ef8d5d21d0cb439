// Planes that fail, ranks that stall, and ranks with nothing to do, as threads.

#include <array>
#include <atomic>

#include "ranks_fixture.h"
#include "support/threads.h"

namespace kolo::core {
namespace {

class FailuresTest : public RanksFixture {
 protected:
  /// The test of each rank of three, at the same time: they mostly wait.
  static void for_each_of_three(const std::function<void(int rank)>& test) {
    testing::run_ranks(3, test);
  }
};

INSTANTIATE_TEST_SUITE_P(Planes, FailuresTest, job::kAllPlanes,
                         [](const auto& test) { return job::name_of(test.param); });

// ---- broken planes ----

/// What a rank says when rank `faulty` has failed. It may also have seen a third one give up first.
::testing::Matcher<std::string> reason_on(int rank, int faulty, const std::string& reason) {
  const auto same = HasSubstr(fmt::format(": rank {} has failed: {}", faulty, reason));
  if (rank == faulty) return same;
  return AnyOf(same, HasSubstr("gave up"));
}

enum class At { Start, Progress };

/// Fails the operation with this number, for the reason "cable cut".
class FaultyData final : public job::ForwardingData {
 public:
  FaultyData(std::unique_ptr<DataPlane> plane, std::uint64_t number, At at)
      : ForwardingData(std::move(plane)), number_(number), at_(at) {}

  Result<std::unique_ptr<Operation>> start(const Collective& collective) override {
    if (started_++ != number_) return ForwardingData::start(collective);
    if (at_ == At::Start) return Status::error("cable cut");
    return std::unique_ptr<Operation>(std::make_unique<Faulty>());
  }

 private:
  struct Faulty final : Operation {
    Result<Progress> progress() override { return Status::error("cable cut"); }
    std::vector<int> missing() const override { return {}; }
  };

  const std::uint64_t number_;
  const At at_;
  std::uint64_t started_ = 0;
};

TEST_P(FailuresTest, DataPlaneFailsOnOneRank) {
  for (const At at : {At::Start, At::Progress}) {
    for (int faulty = 0; faulty < 3; ++faulty) {
      Job job(3, GetParam());
      job.wrap_data = [&](int rank, std::unique_ptr<DataPlane> plane) {
        return rank != faulty ? std::move(plane)
                              : std::make_unique<FaultyData>(std::move(plane), 5, at);
      };
      run_meeting(job, [&](Context& context, int rank, std::barrier<>& meeting) {
        const Set all = programs::world(context);
        for (int i = 0; i < 5; ++i) {
          programs::run(context, all, {.name = fmt::format("good {}", i)});
        }
        const Call sixth(context, all, {.name = "sixth"});
        const std::string error = error_of(sixth.work());
        EXPECT_THAT(error, AllOf(HasSubstr("'sixth'"), reason_on(rank, faulty, "cable cut")));
        // It lasts.
        const std::size_t reason_at = error.find(": ");
        ASSERT_NE(reason_at, std::string::npos);
        const std::string reason = error.substr(reason_at);
        const Call next(context, all, {.name = "next"});
        EXPECT_THAT(error_of(next.work()), AllOf(HasSubstr("'next'"), HasSubstr(reason)));
        meeting.arrive_and_wait();
        const Call last(context, all, {.name = "last"});
        EXPECT_THAT(error_of(last.work()), AllOf(HasSubstr("'last'"), HasSubstr(reason)));
      });
    }
  }
}

/// Its operations fail once `cut` is set, and do not end before.
class CutData final : public job::ForwardingData {
 public:
  CutData(std::unique_ptr<DataPlane> plane, const std::atomic<bool>& cut)
      : ForwardingData(std::move(plane)), cut_(cut) {}

  Result<std::unique_ptr<Operation>> start(const Collective& /*collective*/) override {
    return std::unique_ptr<Operation>(std::make_unique<Endless>(cut_));
  }

 private:
  struct Endless final : Operation {
    explicit Endless(const std::atomic<bool>& cut) : cut_(cut) {}
    Result<Progress> progress() override {
      if (cut_) return Status::error("cable cut");
      return Progress::Waiting;
    }
    std::vector<int> missing() const override { return {}; }
    const std::atomic<bool>& cut_;
  };

  const std::atomic<bool>& cut_;
};

// Nobody may wait for a rank that has failed on the way out.
TEST_P(FailuresTest, DataPlaneFailsWhileRanksLeave) {
  for_each_of_three([&](int faulty) {
    std::atomic<bool> cut = false;
    Job job(3, GetParam());
    job.wrap_data = [&](int rank, std::unique_ptr<DataPlane> plane) {
      return rank != faulty ? std::move(plane) : std::make_unique<CutData>(std::move(plane), cut);
    };
    run_meeting(job, [&](Context& context, int rank, std::barrier<>& meeting) {
      const Set all = programs::world(context);
      const Call call(context, all, {.name = "t"});
      programs::run(context, all, {.name = "agreed", .kind = CollectiveKind::Barrier});
      std::jthread leaving([&] { context.leave(); });
      meeting.arrive_and_wait();
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
      cut = true;
      EXPECT_THAT(error_of(call.work()), reason_on(rank, faulty, "cable cut"));
    });
  });
}

// Rank 0 belongs to no operation that fails, and hears of it when it wants something.
TEST_P(FailuresTest, FailureInASetReachesTheOthers) {
  Job job(3, GetParam());
  job.wrap_data = [&](int rank, std::unique_ptr<DataPlane> plane) {
    return rank != 2 ? std::move(plane)
                     : std::make_unique<FaultyData>(std::move(plane), 0, At::Start);
  };
  run_meeting(job, [](Context& context, int rank, std::barrier<>& meeting) {
    const Set pair = programs::add_set(context, "pair", {1, 2});
    if (rank > 0) {
      const Call call(context, pair, {.name = "t"});
      EXPECT_THAT(error_of(call.work()), reason_on(rank, 2, "cable cut"));
    }
    meeting.arrive_and_wait();
    const Call call(context, programs::world(context), {.name = "all"});
    EXPECT_THAT(error_of(call.work()), reason_on(rank, 2, "cable cut"));
  });
}

/// Counts the looks for messages, and can be broken.
class Control final : public job::ForwardingControl {
 public:
  struct Probe {
    std::atomic<int> looks = 0;
    std::atomic<bool> broken = false;
  };

  Control(std::unique_ptr<ControlPlane> plane, Probe& probe)
      : ForwardingControl(std::move(plane)), probe_(probe) {}

  Result<std::optional<Envelope>> receive() override {
    ++probe_.looks;
    if (probe_.broken) return Status::error("deaf");
    return ForwardingControl::receive();
  }

 private:
  Probe& probe_;
};

TEST_P(FailuresTest, ControlPlaneFailsOnOneRank) {
  for (int faulty = 0; faulty < 3; ++faulty) {
    Job job(3, GetParam());
    std::array<Control::Probe, 3> probes;
    job.wrap_control = [&](int rank, std::unique_ptr<ControlPlane> plane) {
      auto& probe = probes[static_cast<std::size_t>(rank)];
      return std::make_unique<Control>(std::move(plane), probe);
    };
    run_meeting(job, [&](Context& context, int rank, std::barrier<>& meeting) {
      const Set all = programs::world(context);
      programs::run(context, all, {.name = "good"});
      meeting.arrive_and_wait();
      Control::Probe& probe = probes[static_cast<std::size_t>(rank)];
      probe.broken = rank == faulty;
      const Call call(context, all, {.name = "bad"});
      EXPECT_THAT(error_of(call.work()), reason_on(rank, faulty, "deaf"));
      // A broken plane is no reason not to rest.
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
      const int looks = probe.looks;
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
      EXPECT_EQ(probe.looks, looks) << "rank " << rank;
      meeting.arrive_and_wait();
    });
  }
}

// ---- rest ----

TEST_P(FailuresTest, RestsWhenIdle) {
  Job job(3, GetParam());
  std::array<Control::Probe, 3> probes;
  job.wrap_control = [&](int rank, std::unique_ptr<ControlPlane> plane) {
    auto& probe = probes[static_cast<std::size_t>(rank)];
    return std::make_unique<Control>(std::move(plane), probe);
  };
  run_meeting(job, [&](Context& context, int rank, std::barrier<>& meeting) {
    const Set all = programs::world(context);
    programs::run_in_random_order(context, all, 20, 1);
    meeting.arrive_and_wait();
    // Until the last of them has gone to sleep.
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
    const std::atomic<int>& looks = probes[static_cast<std::size_t>(rank)].looks;
    const int before = looks;
    std::this_thread::sleep_for(std::chrono::seconds(1));
    EXPECT_EQ(looks, before) << "rank " << rank;

    // A rank that has submitted nothing rests also while others wait for it.
    meeting.arrive_and_wait();
    if (rank != 0) {
      const Call call(context, all, {.name = "t"});
      meeting.arrive_and_wait();
      call.check();
    } else {
      std::this_thread::sleep_for(std::chrono::milliseconds(200));
      const int asked = looks;
      std::this_thread::sleep_for(std::chrono::seconds(1));
      EXPECT_EQ(looks, asked);
      meeting.arrive_and_wait();
      programs::run(context, all, {.name = "t"});
    }
  });
}

// ---- stalls ----

TEST_P(FailuresTest, WarnsOfStalls) {
  for (int late = 0; late < 3; late += 2) {
    Job job(3, GetParam());
    job.config.stall_warning = std::chrono::milliseconds(200);
    ::testing::internal::CaptureStderr();
    run_meeting(job, [&](Context& context, int rank, std::barrier<>&) {
      const Set all = programs::world(context);
      programs::run(context, all, {.name = "before"});
      if (rank == late) std::this_thread::sleep_for(std::chrono::milliseconds(1600));
      const Call first(context, all, {.name = "first"});
      programs::run(context, all, {.name = "second", .kind = CollectiveKind::Barrier});
      first.check();
    });
    const std::string log = ::testing::internal::GetCapturedStderr();
    EXPECT_THAT(log, AllOf(HasSubstr("stalled"), HasSubstr("allreduce 'first'"),
                           HasSubstr("barrier 'second'")));
    if (late == 0) {
      EXPECT_THAT(log, HasSubstr("rank 0 has not submitted"));
    } else {
      EXPECT_THAT(log, HasSubstr("[kolo rank 0] warning: stalled: rank(s) 2 have not submitted"));
    }
  }
}

TEST_P(FailuresTest, GivesUpOnStalls) {
  for_each_of_three([&](int late) {
    Job job(3, GetParam());
    job.config.stall_abort = std::chrono::milliseconds(200);
    run_meeting(job, [&](Context& context, int rank, std::barrier<>& meeting) {
      const Set all = programs::world(context);
      if (rank == late) meeting.arrive_and_wait();
      const Call call(context, all, {.name = "t"});
      EXPECT_THAT(error_of(call.work()), AllOf(HasSubstr("'t'"), HasSubstr("given up"),
                                               HasSubstr(fmt::format("{}", late))));
      if (rank != late) meeting.arrive_and_wait();
      // With a leader that did not answer, nothing is certain any more.
      if (late != 0) programs::run(context, all, {.name = "t"});
    });
  });
}

TEST_P(FailuresTest, WarnsOfRanksThatDoNotComeToAPlan) {
  Job job(3, GetParam());
  job.config.stall_warning = std::chrono::milliseconds(200);
  ::testing::internal::CaptureStderr();
  run_meeting(job, [&](Context& context, int rank, std::barrier<>&) {
    const Set all = programs::world(context);
    if (rank == 1) std::this_thread::sleep_for(std::chrono::milliseconds(1600));
    programs::run(context, all, {.name = "group", .plan = 1});
  });
  const std::string log = ::testing::internal::GetCapturedStderr();
  EXPECT_THAT(log, AllOf(HasSubstr("[kolo rank 0] warning: stalled: rank(s) 1 have not come to "),
                         HasSubstr("allreduce 'group'")));
  EXPECT_THAT(log, ::testing::Not(HasSubstr("[kolo rank 2] warning")));
}

TEST_P(FailuresTest, GivesUpOnRanksThatDoNotComeToAPlan) {
  for_each_of_three([&](int late) {
    Job job(3, GetParam());
    job.config.stall_abort = std::chrono::milliseconds(200);
    run_meeting(job, [&](Context& context, int rank, std::barrier<>& meeting) {
      const Set all = programs::world(context);
      if (rank != late) {
        const Call call(context, all, {.name = "group", .plan = 1});
        EXPECT_THAT(error_of(call.work()), AllOf(HasSubstr("'group'"), HasSubstr("given up"),
                                                 HasSubstr(fmt::format("rank(s) {}", late))));
      }
      meeting.arrive_and_wait();
      // What the late rank has not heard yet it hears from an operation of all.
      const Call after(context, all, {.name = "after"});
      EXPECT_THAT(error_of(after.work()), HasSubstr("given up"));
    });
  });
}

}  // namespace
}  // namespace kolo::core
