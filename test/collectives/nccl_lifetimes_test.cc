// The NCCL data plane on doubles of CUDA and NCCL: memory and communicators, from beginning to end.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <barrier>
#include <memory>
#include <thread>
#include <utility>

#include "gpu_ranks.h"

namespace kolo::core {
namespace {

using gpus::Rank;
using ::testing::AllOf;
using ::testing::HasSubstr;

TEST(NcclPlane, GivesMemoryOfItsGpuOnly) {
  std::shared_ptr<std::byte> outlives;
  gpus::Options options;
  options.prepare = [] { doubles::fail("ncclMemAlloc", 1, ncclUnhandledCudaError); };
  gpus::run(
      1,
      [&](Rank& rank) {
        const auto first = rank.plane.allocate(DeviceType::Cuda, 0).value();
        EXPECT_NE(first, nullptr);
        EXPECT_THAT(rank.plane.allocate(DeviceType::Cuda, 8).status().message(),
                    AllOf(HasSubstr("ncclMemAlloc of 8 bytes of GPU 0: unhandled cuda error"),
                          HasSubstr("NCCL's last error: ncclMemAlloc")));
        EXPECT_TRUE(rank.plane.rings());
      },
      options);
}

/// Who lets go of memory may be another thread, and later than the plane.
TEST(NcclPlane, ItsMemoryMayOutliveIt) {
  std::shared_ptr<std::byte> memory;
  doubles::reset();
  {
    NcclDataPlane plane(nullptr, {.device = 1});
    memory = plane.allocate(DeviceType::Cuda, 100).value();
  }
  EXPECT_EQ(doubles::live().allocations, 1);
  std::jthread([&] { memory.reset(); }).join();
  EXPECT_EQ(doubles::live(), doubles::Live());
  EXPECT_THAT(doubles::misuses(), ::testing::IsEmpty());
}

/// An all-reduce on the rank's memory.
std::unique_ptr<Operation> start(Rank& rank, std::byte* memory, std::uint64_t sequence,
                                 ChannelId channel = kWorldChannel) {
  Collective c = gpus::collective_on(rank, sequence, 4);
  c.channel = channel;
  c.input = c.output = memory;
  StartedOperation started = rank.plane.start(c);
  EXPECT_TRUE(started.ok()) << started.status().message();
  return std::move(started).value();
}

void finish(const Rank& rank, Operation& operation) {
  while (true) {
    const auto progress = operation.progress();
    ASSERT_TRUE(progress.ok()) << progress.status().message();
    if (progress.value() == Operation::Progress::Done) return;
    rank.idle();
  }
}

void reduce(Rank& rank, std::byte* memory, std::uint64_t sequence,
            ChannelId channel = kWorldChannel) {
  finish(rank, *start(rank, memory, sequence, channel));
}

TEST(NcclPlane, RegistersItsMemoryOnce) {
  gpus::run(2, [](Rank& rank) {
    const auto memory = rank.plane.allocate(DeviceType::Cuda, 64).value();
    const auto foreign = gpus::cuda_memory(rank.device, 64);
    for (std::uint64_t i = 0; i < 5; ++i) reduce(rank, memory.get() + 16 * (i % 3), i);
    reduce(rank, foreign.get(), 5);
    EXPECT_EQ(doubles::calls("ncclCommRegister", rank.device), 1);
  });
  EXPECT_EQ(doubles::calls("ncclCommDeregister"), 0);
}

// While NCCL still has a call to complete, too.
TEST(NcclPlane, ForgetsMemoryThatAnotherThreadFrees) {
  gpus::run(2, [](Rank& rank) {
    constexpr int kRounds = 30;
    std::uint64_t sequence = 0;
    const auto steady = rank.plane.allocate(DeviceType::Cuda, 64).value();
    for (int i = 0; i < kRounds; ++i) {
      auto memory = rank.plane.allocate(DeviceType::Cuda, 64).value();
      reduce(rank, memory.get(), sequence++);
      const auto first = start(rank, steady.get(), sequence++);
      std::jthread([freed = std::move(memory)]() mutable { freed.reset(); }).join();
      const auto second = start(rank, steady.get() + 16, sequence++);
      finish(rank, *first);
      finish(rank, *second);
    }
    reduce(rank, steady.get(), sequence++);
    EXPECT_EQ(doubles::calls("ncclCommRegister", rank.device), kRounds + 1);
    EXPECT_EQ(doubles::calls("ncclCommDeregister", rank.device), kRounds);
    EXPECT_EQ(doubles::calls("ncclMemFree", rank.device), kRounds);
  });
}

// Each waits for the others: one after the other they would be aborted in the end.
TEST(NcclPlane, EndsItsCommunicatorsAtTheSameTime) {
  constexpr int kRanks = 2;
  constexpr int kChannels = 5;
  gpus::Options options = gpus::with_patience();
  options.doubles.finalized_together = kRanks * kChannels;
  gpus::run(
      kRanks,
      [](Rank& rank) {
        const auto memory = rank.plane.allocate(DeviceType::Cuda, 64).value();
        for (ChannelId channel = 0; channel < kChannels; ++channel) {
          reduce(rank, memory.get(), 0, channel);
        }
      },
      options);
  EXPECT_EQ(doubles::calls("ncclCommFinalize"), kRanks * kChannels);
  EXPECT_EQ(doubles::calls("ncclCommAbort"), 0);
}

// Others go on while NCCL is not through with it, and what it knows is kept.
TEST(NcclPlane, EndsAChannelInTheBackground) {
  gpus::Options options = gpus::with_patience();
  options.doubles.finalized_together = 4;
  gpus::run(
      2,
      [](Rank& rank) {
        auto memory = rank.plane.allocate(DeviceType::Cuda, 64).value();
        const auto steady = rank.plane.allocate(DeviceType::Cuda, 64).value();
        reduce(rank, memory.get(), 0, 1);
        memory.reset();
        rank.plane.end_channel(1);
        rank.plane.end_channel(7);
        for (std::uint64_t i = 0; i < 5; ++i) reduce(rank, steady.get(), i, 2);
        EXPECT_EQ(doubles::calls("ncclMemFree", rank.device), 0);
      },
      options);
  EXPECT_EQ(doubles::calls("ncclCommDestroy"), 4);
  EXPECT_EQ(doubles::calls("ncclCommAbort"), 0);
}

TEST(NcclPlane, NothingIsLeftOfAChannelThatHasEnded) {
  std::barrier<> meeting(2);
  std::atomic<bool> gone = false;
  gpus::run(2, [&](Rank& rank) {
    const auto memory = rank.plane.allocate(DeviceType::Cuda, 64).value();
    // Its number may come again.
    for (int round = 0; round < 3; ++round) {
      auto known = rank.plane.allocate(DeviceType::Cuda, 64).value();
      reduce(rank, known.get(), 0, 1);
      known.reset();
      rank.plane.end_channel(1);
    }
    for (std::uint64_t i = 0; !gone; ++i) {
      reduce(rank, memory.get(), i);
      meeting.arrive_and_wait();
      // Its memory goes when its communicator has.
      if (rank.rank == 0) gone = doubles::calls("ncclMemFree") == 6;
      meeting.arrive_and_wait();
    }
  });
}

TEST(DeviceGuard, TakesNothingFromGpusThatThisProcessDoesNotUse) {
  doubles::reset();
  const auto current_after_guard = [] {
    { const cuda::DeviceGuard guard(2); }
    int device = 0;
    EXPECT_EQ(cudaGetDevice(&device), cudaSuccess);
    return device;
  };
  std::thread([&] {
    EXPECT_EQ(current_after_guard(), 2);
    EXPECT_EQ(doubles::calls("cudaSetDevice"), 1);
    EXPECT_EQ(cudaSetDevice(1), cudaSuccess);
    EXPECT_EQ(current_after_guard(), 1);
  }).join();
}

}  // namespace
}  // namespace kolo::core
