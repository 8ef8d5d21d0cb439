#include "engine/waiters.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <barrier>
#include <chrono>
#include <mutex>
#include <thread>

#include "engine/work.h"

namespace kolo::core {
namespace {

void expect_all_wait_soon(const Waiters& waiters, std::size_t threads) {
  while (true) {
    const auto waits = waiters.all_wait();
    if (waits && waits->size() == threads) return;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

TEST(Waiters, NobodyIsKnown) {
  const Waiters waiters;
  EXPECT_FALSE(waiters.all_wait());
}

TEST(Waiters, AllWaitOrOneDoesNot) {
  Waiters waiters;
  const Work work;
  {
    const Waiters::Waiting waiting(waiters, work);
    std::barrier<> meeting(2);
    std::jthread other([&] {
      waiters.count_caller();
      meeting.arrive_and_wait();
      meeting.arrive_and_wait();
    });
    meeting.arrive_and_wait();
    EXPECT_FALSE(waiters.all_wait());
    meeting.arrive_and_wait();
    other.join();
    // It has ended.
    const auto waits = waiters.all_wait();
    ASSERT_TRUE(waits);
    ASSERT_EQ(waits->size(), 1U);
    EXPECT_EQ(waits->front().work, &work);
    EXPECT_EQ(waits->front().activity, "");
  }
  EXPECT_FALSE(waiters.all_wait());
}

TEST(Waiters, ChangesAreSeen) {
  Waiters waiters;
  const Work work;
  std::uint64_t before = waiters.changes();
  const auto changed = [&] { return std::exchange(before, waiters.changes()) != before; };
  waiters.count_caller();
  EXPECT_TRUE(changed());
  waiters.count_caller();
  EXPECT_FALSE(changed());
  {
    const Waiters::Waiting waiting(waiters, work);
    EXPECT_TRUE(changed());
  }
  EXPECT_TRUE(changed());
  std::jthread([&] { const Waiters::Waiting waiting(waiters, work); }).join();
  EXPECT_TRUE(changed());
}

TEST(Waiters, SaysWhatTheThreadDoes) {
  Waiters waiters;
  const Work work;
  const Waiters::Waiting waiting(waiters, work);
  const Waiters::Activity outer(waiters, "in step() of step 3");
  {
    const Waiters::Activity inner(waiters, "in backward of step 3");
    EXPECT_EQ(waiters.all_wait()->front().activity, "in backward of step 3");
  }
  EXPECT_EQ(waiters.all_wait()->front().activity, "in step() of step 3");
}

// A thread may wait for the end of another, which waits; not for anything else.
TEST(Waiters, WhoJoinsAThreadThatWaitsWaitsToo) {
  Waiters waiters;
  const Work work;
  std::mutex held;
  std::unique_lock hold(held);
  std::jthread waits([&] {
    const Waiters::Waiting waiting(waiters, work);
    const std::lock_guard lock(held);
  });
  std::jthread joins([&] {
    waiters.count_caller();
    waits.join();
  });
  expect_all_wait_soon(waiters, 1);
  std::jthread computes([&] {
    waiters.count_caller();
    const std::lock_guard lock(held);
  });
  while (waiters.all_wait()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  hold.unlock();
}

// As where LibTorch runs the end of a backward on a GPU's thread.
TEST(Waiters, AThreadThatWaitsForItsCaller) {
  Waiters waiters;
  const Work work;
  waiters.count_caller();
  const pid_t caller = gettid();
  for (const bool known : {true, false}) {
    std::barrier<> meeting(2);
    std::jthread worker([&] {
      {
        const Waiters::Activity activity(waiters, "in backward", known ? caller : 0);
        const Waiters::Waiting waiting(waiters, work);
        meeting.arrive_and_wait();
        meeting.arrive_and_wait();
      }
      meeting.arrive_and_wait();
      meeting.arrive_and_wait();
    });
    meeting.arrive_and_wait();
    EXPECT_EQ(waiters.all_wait().has_value(), known);
    meeting.arrive_and_wait();
    meeting.arrive_and_wait();
    EXPECT_FALSE(waiters.all_wait());
    // The worker is nobody now.
    const Waiters::Waiting waiting(waiters, work);
    EXPECT_TRUE(waiters.all_wait());
    meeting.arrive_and_wait();
  }
}

// As ranks are in tests.
TEST(Waiters, AThreadIsKnownByManyAtATime) {
  Waiters one;
  Waiters other;
  const Work work;
  const Waiters::Waiting waiting(one, work);
  EXPECT_TRUE(one.all_wait());
  other.count_caller();
  EXPECT_FALSE(other.all_wait());
  EXPECT_TRUE(one.all_wait());
}

}  // namespace
}  // namespace kolo::core
