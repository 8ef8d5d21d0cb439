// Callers that do the coordinator's work while they wait, and how they give it on.

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <barrier>
#include <cfenv>
#include <chrono>
#include <latch>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "job.h"
#include "programs.h"

namespace kolo::core {
namespace {

using job::Job;
using programs::Call;
using programs::Set;
using ::testing::HasSubstr;

constexpr int kRanks = 3;

/// The threads that start operations, of all ranks.
class Threads {
 public:
  void add(std::thread::id id) {
    const std::lock_guard lock(mutex_);
    ids_.insert(id);
  }
  std::set<std::thread::id> take() {
    const std::lock_guard lock(mutex_);
    return std::exchange(ids_, {});
  }

 private:
  std::mutex mutex_;
  std::set<std::thread::id> ids_;
};

class ObservedData final : public job::ForwardingData {
 public:
  ObservedData(std::unique_ptr<DataPlane> plane, Threads& threads)
      : ForwardingData(std::move(plane)), threads_(threads) {}

  Result<std::unique_ptr<Operation>> start(const Collective& collective) override {
    threads_.add(std::this_thread::get_id());
    return ForwardingData::start(collective);
  }

 private:
  Threads& threads_;
};

class BatonTest : public ::testing::TestWithParam<Job::Planes> {
 protected:
  using Body = std::function<void(Context&, int rank, std::barrier<>&)>;

  /// The body meets the others, outside of Kolo, wherever it says so.
  void run(const Body& body) {
    std::barrier<> meeting(job_.size());
    job_.run([&](Context& context) { body(context, context.topology().rank, meeting); });
  }

  Job job_{kRanks, GetParam()};
};

INSTANTIATE_TEST_SUITE_P(Planes, BatonTest, job::kAllPlanes,
                         [](const auto& test) { return job::name_of(test.param); });

TEST_P(BatonTest, BlockingCallsRunOnTheirCallersThreads) {
  Threads starters;
  Threads callers;
  job_.wrap_data = [&](int, std::unique_ptr<DataPlane> plane) {
    return std::make_unique<ObservedData>(std::move(plane), starters);
  };
  run([&](Context& context, int, std::barrier<>& meeting) {
    const Set all = programs::world(context);
    callers.add(std::this_thread::get_id());
    for (std::uint64_t i = 0; i < 20; ++i) {
      programs::run(context, all, {.name = "t", .count = 100, .seed = i});
    }
    meeting.arrive_and_wait();
  });
  EXPECT_EQ(starters.take(), callers.take());
}

TEST_P(BatonTest, NobodyNeedWait) {
  Threads starters;
  Threads callers;
  job_.wrap_data = [&](int, std::unique_ptr<DataPlane> plane) {
    return std::make_unique<ObservedData>(std::move(plane), starters);
  };
  run([&](Context& context, int, std::barrier<>&) {
    callers.add(std::this_thread::get_id());
    const Call call(context, programs::world(context), {.name = "t"});
    job::poll_until_done(call.work());
  });
  const std::set<std::thread::id> ids = starters.take();
  EXPECT_EQ(ids.size(), std::size_t{kRanks});
  for (const std::thread::id caller : callers.take()) EXPECT_FALSE(ids.contains(caller));
}

// Each submission may find its rank at rest, or one of the threads at work or asleep.
TEST_P(BatonTest, AnotherThreadSubmitsWithoutWaiting) {
  run([](Context& context, int, std::barrier<>&) {
    const Set all = programs::world(context);
    std::jthread submitting([&] {
      for (std::uint64_t i = 0; i < 100; ++i) {
        const Call call(context, all, {.name = "async", .seed = i});
        job::poll_until_done(call.work());
        call.check();
      }
    });
    for (std::uint64_t i = 0; i < 200; ++i) {
      programs::run(context, all, {.name = "blocking", .seed = i});
    }
  });
}

TEST_P(BatonTest, ThreadsWaitAtOnce) {
  run([](Context& context, int, std::barrier<>&) {
    const Set all = programs::world(context);
    std::vector<std::jthread> threads;
    for (int thread = 0; thread < 3; ++thread) {
      threads.emplace_back([&, thread] {
        for (std::uint64_t i = 0; i < 100; ++i) {
          programs::run(context, all, {.name = fmt::format("t{}", thread), .seed = i});
        }
      });
    }
  });
}

TEST_P(BatonTest, ThreadsWaitForOneOperation) {
  run([](Context& context, int, std::barrier<>& meeting) {
    const Set all = programs::world(context);
    for (std::uint64_t i = 0; i < 50; ++i) {
      const Call call(context, all, {.name = "t", .seed = i, .awaited = i % 2 == 0});
      std::jthread other([&] { call.check(); });
      call.check();
      if (i % 10 == 0) meeting.arrive_and_wait();
    }
  });
}

// Each rank rounds in its own way, but all get the sum that is nearest.
TEST_P(BatonTest, ArithmeticIsNotTheCallers) {
  run([](Context& context, int rank, std::barrier<>&) {
    const int mode = rank == 0 ? FE_UPWARD : FE_DOWNWARD;
    std::fesetround(mode);
    float value = rank == 0 ? 1.0F : 0x1p-26F;
    Submission submission;
    submission.request.name = "t";
    submission.request.shape = {1};
    submission.input = submission.output = &value;
    submission.awaited = true;
    EXPECT_TRUE(context.submit(std::move(submission))->wait().ok());
    EXPECT_EQ(std::fegetround(), mode);
    std::fesetround(FE_TONEAREST);
    EXPECT_EQ(value, 1.0F);
  });
}

// What it leaves, nobody waits for.
TEST_P(BatonTest, ACallerLeavesWorkInFlight) {
  run([](Context& context, int rank, std::barrier<>& meeting) {
    const Set all = programs::world(context);
    for (int late = 0; late < kRanks; ++late) {
      const programs::Recipe slow{.name = "slow", .count = 100'000};
      std::vector<Call> calls;
      if (rank != late) calls.emplace_back(context, all, slow);
      programs::run(context, all, {.name = "barrier", .kind = CollectiveKind::Barrier});
      meeting.arrive_and_wait();
      if (rank == late) calls.emplace_back(context, all, slow);
      job::poll_until_done(calls.front().work());
      calls.front().check();
      meeting.arrive_and_wait();
    }
  });
}

// The first of them works, and its end must not leave the second one asleep.
TEST_P(BatonTest, ACallerGivesOnToAnother) {
  run([](Context& context, int rank, std::barrier<>& meeting) {
    const Set all = programs::world(context);
    for (int i = 0; i < 20; ++i) {
      std::jthread first([&] { programs::run(context, all, {.name = "first"}); });
      std::jthread second([&] {
        if (rank == 0) std::this_thread::sleep_for(std::chrono::microseconds(200 * i));
        programs::run(context, all, {.name = "second"});
      });
      first.join();
      second.join();
      meeting.arrive_and_wait();
    }
  });
}

/// Its operation with this number fails.
class FaultyData final : public job::ForwardingData {
 public:
  FaultyData(std::unique_ptr<DataPlane> plane, std::uint64_t number)
      : ForwardingData(std::move(plane)), number_(number) {}

  Result<std::unique_ptr<Operation>> start(const Collective& collective) override {
    if (started_++ == number_) return Status::error("cable cut");
    return ForwardingData::start(collective);
  }

 private:
  const std::uint64_t number_;
  std::uint64_t started_ = 0;
};

TEST_P(BatonTest, TheOperationOfACallerFails) {
  job_.wrap_data = [](int rank, std::unique_ptr<DataPlane> plane) -> std::unique_ptr<DataPlane> {
    if (rank != 1) return plane;
    return std::make_unique<FaultyData>(std::move(plane), 3);
  };
  run([](Context& context, int, std::barrier<>&) {
    const Set all = programs::world(context);
    for (int i = 0; i < 3; ++i) programs::run(context, all, {.name = "good"});
    const Call bad(context, all, {.name = "bad", .awaited = true});
    const Status status = bad.work().wait();
    ASSERT_FALSE(status.ok());
    EXPECT_THAT(status.message(), HasSubstr("'bad'"));
    const Call next(context, all, {.name = "next", .awaited = true});
    EXPECT_FALSE(next.work().wait().ok());
  });
}

TEST_P(BatonTest, ShutdownWhileCallersWait) {
  run([](Context& context, int rank, std::barrier<>& meeting) {
    const Set all = programs::world(context);
    std::latch submitted(2);
    std::vector<std::jthread> threads;
    for (int thread = 0; rank == 0 && thread < 2; ++thread) {
      threads.emplace_back([&context, &submitted, all, thread] {
        const Call call(context, all, {.name = fmt::format("t{}", thread), .awaited = true});
        submitted.count_down();
        const Status status = call.work().wait();
        ASSERT_FALSE(status.ok());
        EXPECT_THAT(status.message(), HasSubstr("has shut down"));
      });
    }
    if (rank == 0) {
      submitted.wait();
      // Then mostly one does the work, and the other sleeps.
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    }
    meeting.arrive_and_wait();
    context.leave();
  });
}

}  // namespace
}  // namespace kolo::core
