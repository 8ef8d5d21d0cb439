// Ranks that wait for each other in programs that train, and one that is stopped.

#include <kolo/kolo.h>
#include <signal.h>
#include <torch/torch.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <string>
#include <thread>

#include "framework/support.h"
#include "framework/training.h"

namespace kolo::testing {
namespace {

class CirclesTest : public FrameworkTest {
 protected:
  void SetUp() override {
    FrameworkTest::SetUp();
    if (kolo::size() == 1) GTEST_SKIP() << "one rank waits for nobody";
  }
  /// The failure has ended everything.
  void TearDown() override { kolo::shutdown(); }
};

/// A model with an optimizer.
struct Trained {
  explicit Trained(const ProcessSet& set = {})
      : sgd(net->parameters(), 0.1),
        optimizer(sgd, net->named_parameters(), {.process_set = set}) {}

  void step(int step) {
    optimizer.zero_grad();
    squared_error(net->forward(input(step, 0, kolo::rank())), step, 0, kolo::rank()).backward();
    optimizer.step();
  }

  Net net;
  torch::optim::SGD sgd;
  DistributedOptimizer optimizer;
};

// The last rank has more batches, or the others have stopped early.
TEST_F(CirclesTest, UnevenEpochs) {
  const std::vector<std::pair<std::string, std::function<void()>>> ends = {
      {"all-reduce 'accuracy'", [] { kolo::allreduce(torch::ones({1}), {.name = "accuracy"}); }},
      {"barrier 'epoch'", [] { kolo::barrier({.name = "epoch"}); }},
      {"all-gather 'outputs'",
       [] {
         kolo::allgather(torch::ones({kolo::rank() + 1, 2}), {.name = "outputs"});
       }},
  };
  for (const auto& [words, end] : ends) {
    kolo::init();
    {
      Trained trained;
      const bool more = kolo::rank() == last_rank();
      const auto epoch = [&, &end = end] {
        for (int step = 0; step < (more ? 4 : 3); ++step) trained.step(step);
        end();
      };
      expect_error(epoch, {" in " + words + " after step 2, rank " + std::to_string(last_rank()) +
                           " in backward of step 3. "});
      // It lasts.
      expect_error([&] { trained.step(9); }, {"wait for each other"});
    }
    kolo::shutdown();
  }
}

// A backward that reaches only one of them here, and only the other one there.
TEST_F(CirclesTest, OptimizersOfDifferentProcessSets) {
  const ProcessSet set = kolo::add_process_set(all_ranks());
  Trained first;
  Trained second(set);
  first.step(0);
  second.step(0);
  const bool here = kolo::rank() == 0;
  expect_error([&] { (here ? first : second).step(1); },
               {"rank 0 is in backward of step 1", " in backward of step 1 of optimizer1. "});
}

TEST_F(CirclesTest, AProcessSetThatOneRankMakes) {
  Trained trained;
  trained.step(0);
  const auto go_on = [&] {
    if (kolo::rank() == 0) kolo::add_process_set({0, 1});
    trained.step(1);
  };
  expect_error(go_on,
               {"rank 0 is in add_process_set '", "' after step 0", "in backward of step 1. "});
}

// Threads of their own, and main() waits for both.
TEST_F(CirclesTest, TwoThreads) {
  const ProcessSet set = kolo::add_process_set(all_ranks());
  const bool here = kolo::rank() == 0;
  std::thread metrics([&] {
    expect_error([&] { kolo::allreduce(torch::ones({1}), {.name = here ? "a" : "b"}); },
                 {"'a'", "'b'", "in backward of step 0", "'d'"});
  });
  std::thread training([&] {
    const auto train = [&] {
      Trained trained(set);
      if (here) kolo::barrier({.name = "d", .process_set = set});
      trained.step(0);
    };
    expect_error(train, {"'a'", "'b'", "in backward of step 0", "'d'"});
  });
  metrics.join();
  training.join();
}

// A rank that is stopped is late: for much longer than it takes to find a circle.
TEST_F(CirclesTest, AStoppedRankIsWaitedFor) {
  const auto pids = kolo::allgather(torch::full({1}, getpid(), torch::kInt64));
  const auto last = static_cast<pid_t>(pids[last_rank()].item<std::int64_t>());
  Trained trained;
  trained.step(0);
  // One that has not used Kolo.
  std::atomic<bool> over = false;
  std::thread waker;
  if (kolo::rank() == 0) {
    waker = std::thread([last, &over] {
      std::this_thread::sleep_for(std::chrono::seconds(4));
      // It may only be stopped by then.
      while (!over) {
        kill(last, SIGCONT);
        std::this_thread::sleep_for(std::chrono::milliseconds(50));
      }
    });
  }
  if (kolo::rank() == last_rank()) raise(SIGSTOP);
  trained.step(1);
  kolo::barrier();
  over = true;
  if (waker.joinable()) waker.join();
  EXPECT_TRUE(identical_on_all_ranks(flat_parameters(*trained.net)));
}

}  // namespace
}  // namespace kolo::testing
