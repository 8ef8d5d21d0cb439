// The NCCL data plane on doubles of CUDA and NCCL: what fails, who says what, and what is left.

#include <algorithm>
#include <atomic>
#include <functional>
#include <semaphore>
#include <string_view>
#include <thread>

#include "nccl_sums.h"

namespace kolo::core {
namespace {

// ---- calls that fail ----

/// Everything that the plane asks CUDA and NCCL for, but for what ends things.
std::string use_everything(Rank& rank, const std::atomic<bool>& given_up) {
  const auto private_memory = gpus::cuda_memory(rank.device, kCount * sizeof(float));
  gpus::UserStream user(rank.device);
  user.write(private_memory.get(), oracle::Bytes(kCount * sizeof(float)));
  const std::shared_ptr<DeviceEvent> ready = user.now();
  user.finish();

  Sum packed(rank, 0);
  packed.collective().ready = {ready};
  packed.collective().pack = {{private_memory.get(), packed.collective().output, kCount}};
  packed.collective().prescale = 0.5;
  packed.collective().timed = true;
  if (std::string outcome = packed.run(given_up); outcome != "done") return outcome;

  Sum ragged(rank, 1);
  Collective& c = ragged.collective();
  c.kind = CollectiveKind::Allgather;
  c.counts.assign(c.ranks.size(), 1);
  c.counts.front() = kCount - std::ssize(c.ranks) + 1;
  c.input = private_memory.get();
  if (std::string outcome = ragged.run(given_up); outcome != "done") return outcome;

  Sum same(rank, 2);
  Collective& gather = same.collective();
  gather.kind = CollectiveKind::Allgather;
  gather.counts.assign(gather.ranks.size(), kCount / std::ssize(gather.ranks));
  gather.count = gather.counts.front() * std::ssize(gather.ranks);
  gather.input = private_memory.get();
  if (std::string outcome = same.run(given_up); outcome != "done") return outcome;

  Sum scattered(rank, 3);
  Collective& scatter = scattered.collective();
  scatter.kind = CollectiveKind::Reducescatter;
  scatter.counts = gather.counts;
  scatter.count = gather.count;
  scatter.input = private_memory.get();
  if (std::string outcome = scattered.run(given_up); outcome != "done") return outcome;

  Sum uneven(rank, 4);
  uneven.collective().kind = CollectiveKind::Reducescatter;
  uneven.collective().counts = c.counts;
  uneven.collective().input = private_memory.get();
  if (std::string outcome = uneven.run(given_up); outcome != "done") return outcome;

  Sum exchanged(rank, 5);
  Collective& exchange = exchanged.collective();
  exchange.kind = CollectiveKind::Alltoall;
  exchange.splits = exchange.counts = gather.counts;
  exchange.count = gather.count;
  exchange.input = private_memory.get();
  if (std::string outcome = exchanged.run(given_up); outcome != "done") return outcome;

  Sum broadcast(rank, 6);
  broadcast.collective().kind = CollectiveKind::Broadcast;
  return broadcast.run(given_up);
}

struct Attempt {
  std::vector<std::string> outcomes;
  std::int64_t calls = 0;
};

Attempt attempt(std::string_view function, gpus::Options options) {
  constexpr int kRanks = 2;
  Attempt attempt{.outcomes = std::vector<std::string>(kRanks)};
  std::barrier<> meeting(kRanks);
  std::atomic<bool> given_up = false;
  gpus::run(
      kRanks,
      [&](Rank& rank) {
        std::string& outcome = attempt.outcomes[static_cast<std::size_t>(rank.rank)];
        outcome = use_everything(rank, given_up);
        if (outcome != "done") given_up = true;
        if (rank.rank == 1) attempt.calls = doubles::calls(function, 1);
        meeting.arrive_and_wait();
      },
      options);
  return attempt;
}

class FailingCalls : public ::testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(
    Functions, FailingCalls,
    ::testing::Values("cudaDeviceGetStreamPriorityRange", "cudaStreamCreateWithPriority",
                      "cudaStreamWaitEvent", "launch_table", "ncclCommInitRankConfig",
                      "ncclCommRegister", "ncclRedOpCreatePreMulSum", "ncclRedOpDestroy",
                      "ncclAllReduce", "ncclAllGather", "ncclReduceScatter", "ncclReduce",
                      "ncclSend", "ncclRecv", "ncclBroadcast", "ncclGroupStart", "ncclGroupEnd",
                      "cudaEventElapsedTime", "cudaEventSynchronize", "cudaEventRecord",
                      "cudaEventCreateWithFlags", "ncclCommGetAsyncError"),
    [](const auto& test) { return std::string(test.param); });

// Each call in turn, on one rank, which names it. The other one comes to an end as well.
TEST_P(FailingCalls, FailTheOperation) {
  const std::string function = GetParam();
  const Attempt whole = attempt(function, {});
  ASSERT_THAT(whole.outcomes, Each("done"));
  ASSERT_GT(whole.calls, 0);
  const bool by_program = function == "cudaEventRecord" || function == "cudaEventCreateWithFlags";
  // The program's own come first and last. How things are the plane asks when it connects and in
  // each of the seven operations, more often only where it has to wait.
  const std::int64_t most = function == "ncclCommGetAsyncError" ? 8 : 12;
  const std::int64_t end = std::min(whole.calls - (by_program ? 1 : 0), most);
  for (std::int64_t n = by_program ? 2 : 0; n < end; ++n) {
    gpus::Options options;
    options.prepare = [&] {
      if (function.starts_with("nccl")) {
        doubles::fail(function, n, ncclSystemError, 1);
      } else {
        doubles::fail(function, n, cudaErrorLaunchFailure, 1);
      }
    };
    const Attempt failed = attempt(function, options);
    const std::string name = function == "launch_table" ? "cudaLaunchKernel" : function;
    EXPECT_THAT(failed.outcomes[1], AnyOf(HasSubstr(name + ": "), HasSubstr(name + " of")))
        << "call " << n;
    EXPECT_NE(failed.outcomes[0], "") << "call " << n;
  }
}

TEST(NcclFailures, WhatCannotEndInPeaceIsAborted) {
  gpus::Options options = gpus::with_patience();
  options.prepare = [] { doubles::fail("ncclCommFinalize", 0, ncclSystemError, 1); };
  EXPECT_THAT(run_sums(2, options), Each("done"));
  EXPECT_EQ(doubles::calls("ncclCommAbort", 1), 1);
  EXPECT_EQ(doubles::calls("ncclCommAbort", 0), 0);
}

// ---- while operations are under way ----

TEST(NcclFailures, NcclReportsAnError) {
  std::barrier<> meeting(2);
  gpus::run(2, [&](Rank& rank) {
    EXPECT_EQ(Sum(rank, 0).run(), "done");
    Sum second(rank, 1);
    Sum third(rank, 2);
    meeting.arrive_and_wait();
    if (rank.rank == 0) {
      second.start();
      doubles::report_async_error(0, ncclRemoteError, "the cable is cut");
    }
    meeting.arrive_and_wait();
    for (Sum* sum : {&second, &third}) {
      EXPECT_THAT(sum->run(), AllOf(HasSubstr("remote process exited"),
                                    HasSubstr("NCCL's last error: the cable is cut")));
    }
    meeting.arrive_and_wait();
  });
}

TEST(NcclFailures, AnOperationHangs) {
  gpus::Options options = with_deadlines(-1, std::chrono::seconds(30), milliseconds(300));
  options.prepare = [] { doubles::hang(0, 1); };
  EXPECT_THAT(run_sums(2, options),
              Each(HasSubstr("allreduce was in the GPU's queue for more than 0.3 s")));
  EXPECT_EQ(doubles::calls("ncclCommAbort"), 2);
}

/// How far an operation is when it is given up.
enum class At { Started, Waiting, Issued, Behind };

// Others find out by themselves where they meet, or are told.
TEST(NcclFailures, AnOperationIsGivenUp) {
  for (const At at : {At::Started, At::Waiting, At::Issued, At::Behind}) {
    std::barrier<> meeting(2);
    std::atomic<bool> over = false;
    gpus::Options options;
    options.prepare = [] { doubles::hang(1, 0); };
    gpus::run(
        2,
        [&](Rank& rank) {
          // Another channel, which goes on.
          EXPECT_EQ(Sum(rank, 0, 4).run(), "done");
          if (rank.rank == 0) {
            EXPECT_THAT(Sum(rank, 0).run(over), AnyOf("given up", HasSubstr("rank 1 gave up")));
          } else {
            Sum given_up(rank, 0);
            StartedOperation operation = rank.plane.start(given_up.collective());
            ASSERT_TRUE(operation.ok());
            for (int i = 0; at == At::Waiting && i < 20; ++i) {
              ASSERT_TRUE(operation.value()->progress().ok());
              rank.idle();
            }
            while (at >= At::Issued && operation.value()->issued() == nullptr) {
              ASSERT_TRUE(operation.value()->progress().ok());
              rank.idle();
            }
            if (at == At::Behind) {
              // Destroyed while it is queued, perhaps.
              Sum behind(rank, 1);
              behind.start();
            }
            operation = Status::error("over");
            rank.plane.drain();
            over = true;
            EXPECT_EQ(Sum(rank, 2).run(), "allreduce was given up");
          }
          meeting.arrive_and_wait();
          EXPECT_EQ(Sum(rank, 1, 4).run(), "done");
          meeting.arrive_and_wait();
        },
        options);
  }
}

// What was right stays right.
TEST(NcclFailures, NothingHappensToWhatIsDone) {
  gpus::Options options;
  options.prepare = [] { doubles::hang(0, 1); };
  gpus::run(
      2,
      [](Rank& rank) {
        Sum done(rank, 0);
        const std::shared_ptr<DeviceEvent> finished = done.run_and_keep();
        Sum given_up(rank, 1);
        given_up.start();
        given_up.give_up();
        EXPECT_TRUE(finished->reached().ok());
        EXPECT_TRUE(finished->synchronize().ok());
        EXPECT_EQ(Sum(rank, 2).run(), "allreduce was given up");
      },
      options);
}

/// The GPU may get the memory of what is given up only later: until then nobody may free it.
TEST(NcclFailures, DrainsWhatIsGivenUp) {
  gpus::run(1, [](Rank& rank) {
    gpus::UserStream user(rank.device);
    for (ChannelId channel = 0; channel < 5; ++channel) {
      const auto memory = gpus::cuda_memory(rank.device, kCount * sizeof(float));
      std::binary_semaphore gate(0);
      user.call([&gate] { gate.acquire(); });
      user.write(memory.get(), oracle::Bytes(kCount * sizeof(float)));
      Sum sum(rank, 0, channel);
      sum.collective().ready = {user.now()};
      sum.collective().pack = {{memory.get(), sum.collective().output, kCount}};
      Operation& operation = sum.start();
      while (operation.issued() == nullptr) EXPECT_TRUE(operation.progress().ok());
      const std::shared_ptr<DeviceEvent> issued = operation.issued();
      const std::jthread later([&gate] {
        std::this_thread::sleep_for(milliseconds(20));
        gate.release();
      });
      sum.give_up();
      EXPECT_THAT(issued->synchronize().message(), HasSubstr("given up"));
    }
  });
}

}  // namespace
}  // namespace kolo::core
