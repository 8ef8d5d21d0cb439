// Ranks whose coordinator gets no memory, once: every operation ends all the same, on all ranks.

#include <array>
#include <atomic>
#include <new>
#include <thread>

#include "ranks_fixture.h"
#include "support/operator_new.h"

namespace {

/// Of the threads that may run out of memory: how many more times they get some. Below 0: always.
std::atomic<int> allocations_left = -1;
thread_local bool gets_memory = false;

bool runs_out() {
  return !gets_memory && allocations_left.load() >= 0 && allocations_left.fetch_sub(1) == 0;
}

}  // namespace

void kolo::testing::before_allocation(std::size_t /*bytes*/) {
  if (runs_out()) throw std::bad_alloc();
}

namespace kolo::core {
namespace {

/// By looking: the coordinator's thread does the work. By waiting: this one does, too.
enum class By { Looking, Waiting };

std::string outcome_of(const Work& work, By by) {
  while (by == By::Looking && !work.done()) {
    std::this_thread::sleep_for(std::chrono::microseconds(50));
  }
  gets_memory = by == By::Looking;
  const Status status = work.wait();
  gets_memory = true;
  return status.ok() ? "" : status.message();
}

class MemoryTest : public RanksFixture {
 protected:
  /// Once for each allocation of the two ranks' operations, which then fails.
  void run_out_at_each_allocation(By by);
};

INSTANTIATE_TEST_SUITE_P(Planes, MemoryTest, job::kAllPlanes,
                         [](const auto& test) { return job::name_of(test.param); });

void MemoryTest::run_out_at_each_allocation(By by) {
  bool ran_out = true;
  for (int allocation = 0; ran_out; ++allocation) {
    std::atomic<int> failed = 0;
    run(2, [&](Context& context, int rank, std::barrier<>& meeting) {
      gets_memory = true;
      const Set all = programs::world(context);
      std::vector<float> values(100, 1);
      meeting.arrive_and_wait();
      if (rank == 1) allocations_left = allocation;
      meeting.arrive_and_wait();
      std::vector<std::shared_ptr<Work>> works;
      for (int i = 0; i < 4; ++i) {
        Submission submission;
        submission.request.name = fmt::format("a tensor with the number {}", i);
        submission.request.shape = {1};
        submission.plan = i == 3 ? 1 : 0;
        submission.input = submission.output = &values[static_cast<std::size_t>(i)];
        works.push_back(context.submit(std::move(submission)));
      }
      for (std::size_t i = 0; i < works.size(); ++i) {
        const std::string error = outcome_of(*works[i], by);
        if (error.empty()) {
          EXPECT_EQ(values[i], 2);
        } else {
          ++failed;
          EXPECT_THAT(error, AnyOf(HasSubstr("out of memory"), HasSubstr("gave up")));
        }
      }
      meeting.arrive_and_wait();
      if (rank == 1) ran_out = allocations_left.exchange(-1) < 0;
      meeting.arrive_and_wait();
    });
    if (HasFailure()) break;
    ASSERT_TRUE(ran_out || failed == 0);
  }
}

TEST_P(MemoryTest, InTheCoordinatorsThread) { run_out_at_each_allocation(By::Looking); }

TEST_P(MemoryTest, InWhoeverWaits) { run_out_at_each_allocation(By::Waiting); }

}  // namespace
}  // namespace kolo::core
