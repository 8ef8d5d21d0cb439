// Planes that fail, ranks that stall, and ranks with nothing to do, as threads.

#include <array>
#include <atomic>
#include <fstream>
#include <sstream>

#include "ranks_fixture.h"
#include "support/threads.h"

namespace kolo::core {
namespace {

using ::testing::ContainsRegex;

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

/// Returns after a second without a look. A rank that does not rest sleeps for half of one at most.
void wait_for_rest(const std::atomic<int>& looks) {
  int before;
  do {
    before = looks;
    std::this_thread::sleep_for(std::chrono::seconds(1));
  } while (looks != before);
}

TEST_P(FailuresTest, ControlPlaneFailsOnOneRank) {
  for_each_of_three([&](int faulty) {
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
      wait_for_rest(probe.looks);
      meeting.arrive_and_wait();
    });
  });
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
    const std::atomic<int>& looks = probes[static_cast<std::size_t>(rank)].looks;
    wait_for_rest(looks);

    // A rank that has submitted nothing rests also while others wait for it.
    if (rank != 0) {
      const Call call(context, all, {.name = "t"});
      meeting.arrive_and_wait();
      call.check();
    } else {
      meeting.arrive_and_wait();
      wait_for_rest(looks);
      programs::run(context, all, {.name = "t"});
    }
  });
}

// ---- stalls ----

/// Returns when the log, since CaptureStderr(), has what matches the regular expression.
void wait_for_log(const std::string& expression) {
  const auto matches = [&] {
    std::stringstream log;
    log << std::ifstream("/proc/self/fd/2").rdbuf();
    return ::testing::Matches(ContainsRegex(expression))(log.str());
  };
  while (!matches()) std::this_thread::sleep_for(std::chrono::milliseconds(10));
}

// The late rank comes when it was named. A warning that comes before the others have submitted both
// operations is followed by another.
TEST_P(FailuresTest, WarnsOfStalls) {
  for (int late = 0; late < 3; late += 2) {
    const std::string warning =
        late == 0 ? "stalled: rank 0 has not submitted allreduce 'first', barrier 'second', for"
                  : R"(rank 0\] warning: stalled: rank\(s\) 2 have not submitted )"
                    R"(allreduce 'first' \([0-9.]+ s\), barrier 'second' \([0-9.]+ s\), for .*)"
                    R"(KOLO_STALL_ABORT_SECONDS)";
    Job job(3, GetParam());
    job.config.stall_warning = std::chrono::milliseconds(200);
    ::testing::internal::CaptureStderr();
    run_meeting(job, [&](Context& context, int rank, std::barrier<>&) {
      const Set all = programs::world(context);
      programs::run(context, all, {.name = "before"});
      if (rank == late) wait_for_log(warning);
      const Call first(context, all, {.name = "first"});
      programs::run(context, all, {.name = "second", .kind = CollectiveKind::Barrier});
      first.check();
    });
    ::testing::internal::GetCapturedStderr();
  }
}

/// These words are about rank `late`, and about others if they are behind, too.
::testing::Matcher<std::string> said_of(int late, const std::string& words) {
  return ContainsRegex(fmt::format(R"(rank\(s\) ([0-9], )*{}(, [0-9])* {})", late, words));
}

TEST_P(FailuresTest, GivesUpOnStalls) {
  for_each_of_three([&](int late) {
    Job job(3, GetParam());
    // The leader gives up, or, if it is late, its members do, which wait for a second more.
    job.change_config = [late](int rank, Config config) {
      if (rank == 0 && late != 0) config.stall_abort = std::chrono::seconds(1);
      if (rank != 0 && late == 0) config.stall_abort = std::chrono::milliseconds(200);
      return config;
    };
    run_meeting(job, [&](Context& context, int rank, std::barrier<>& meeting) {
      const Set all = programs::world(context);
      if (rank == late) meeting.arrive_and_wait();
      const Call call(context, all, {.name = "t"});
      EXPECT_THAT(error_of(call.work()),
                  AllOf(HasSubstr("'t': given up"), late == 0 ? HasSubstr("rank 0 has not answered")
                                                              : said_of(late, "did not")));
      if (rank != late) meeting.arrive_and_wait();
      // With a leader that did not answer, nothing is certain any more. Otherwise the name is free.
      // What is given up because ranks are a second apart ends so on all, which try again.
      if (late == 0) return;
      const Recipe again{.name = "t", .kind = CollectiveKind::Barrier};
      while (!Call(context, all, again).work().wait().ok()) {
      }
    });
  });
}

// The first rank that is there warns: rank 0, though rank 2 also knows, which warns of the pair's.
TEST_P(FailuresTest, WarnsOfRanksThatDoNotComeToAPlan) {
  const auto warning = [](int rank, const char* missing, const char* name) {
    return fmt::format(R"(\[kolo rank {}\] warning: stalled: rank\(s\) {} have not come to )"
                       "allreduce '{}'",
                       rank, missing, name);
  };
  Job job(3, GetParam());
  job.config.stall_warning = std::chrono::milliseconds(200);
  ::testing::internal::CaptureStderr();
  run_meeting(job, [&](Context& context, int rank, std::barrier<>&) {
    const Set all = programs::world(context);
    const Set pair = programs::add_set(context, "pair", {1, 2});
    if (rank == 2) wait_for_log(warning(0, "1, 2", "group"));
    if (rank == 1) {
      wait_for_log(warning(0, "1", "group"));
      wait_for_log(warning(2, "1", "of a pair"));
    }
    const Call group(context, all, {.name = "group", .plan = 1});
    if (rank != 0) programs::run(context, pair, {.name = "of a pair", .plan = 1});
    group.check();
  });
  EXPECT_THAT(::testing::internal::GetCapturedStderr(),
              ::testing::Not(ContainsRegex(warning(2, "[0-9, ]*", "group"))));
}

TEST_P(FailuresTest, GivesUpOnRanksThatDoNotComeToAPlan) {
  for_each_of_three([&](int late) {
    Job job(3, GetParam());
    job.config.stall_abort = std::chrono::milliseconds(200);
    run_meeting(job, [&](Context& context, int rank, std::barrier<>& meeting) {
      const Set all = programs::world(context);
      if (rank != late) {
        const Call call(context, all, {.name = "group", .plan = 1});
        EXPECT_THAT(error_of(call.work()),
                    AllOf(HasSubstr("'group': given up"), said_of(late, "have not come"),
                          ::testing::Not(HasSubstr("has failed"))));
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
