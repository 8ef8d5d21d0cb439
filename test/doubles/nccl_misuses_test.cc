// NCCL's double: what goes wrong, and who is told.

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <functional>

#include "doubles/support.h"

namespace kolo::doubles {
namespace {

using ::testing::Contains;
using ::testing::Each;
using ::testing::HasSubstr;

/// Two ranks that begin an all-reduce and do not wait for it, and then `body`.
void begin_all_reduce(
    const std::function<void(int rank, ncclComm_t, cudaStream_t, std::span<float>)>& body,
    const std::function<std::size_t(int rank)>& count) {
  const ncclUniqueId id = new_id();
  as_ranks(2, [&](int rank) {
    const ncclComm_t communicator = join(rank, 2, id);
    const cudaStream_t stream = new_stream();
    const std::span<float> values = device_memory<float>(8);
    std::ranges::fill(values, 1.0F);
    const ncclResult_t result = ncclAllReduce(values.data(), values.data(), count(rank),
                                              ncclFloat32, ncclSum, communicator, stream);
    EXPECT_EQ(result, ncclInProgress);
    body(rank, communicator, stream, values);
  });
}

ncclResult_t wait_for_error(ncclComm_t communicator) {
  ncclResult_t state = ncclSuccess;
  while (state == ncclSuccess || state == ncclInProgress) {
    EXPECT_EQ(ncclCommGetAsyncError(communicator, &state), ncclSuccess);
    std::this_thread::sleep_for(std::chrono::microseconds(20));
  }
  return state;
}

void expect_poison_after_abort(ncclComm_t communicator, cudaStream_t stream,
                               std::span<float> values) {
  EXPECT_EQ(ncclCommAbort(communicator), ncclSuccess);
  EXPECT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
  EXPECT_THAT(std::as_bytes(values), Each(std::byte{kPoison}));
}

TEST_F(Nccl, AMismatchIsAnErrorOnAllRanks) {
  begin_all_reduce(
      [](int, ncclComm_t communicator, cudaStream_t stream, std::span<float> values) {
        EXPECT_EQ(wait_for_error(communicator), ncclInvalidUsage);
        EXPECT_STREQ(ncclGetLastError(communicator),
                     "communicator 0: rank 0 in its operation 0 and rank 1 in its operation 0 "
                     "disagree: counts 7 and 8");
        EXPECT_EQ(ncclCommDestroy(communicator), ncclInvalidUsage);
        EXPECT_EQ(ncclCommAbort(communicator), ncclSuccess);
        EXPECT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
        EXPECT_THAT(std::as_bytes(values.first(7)), Each(std::byte{kPoison}));
      },
      [](int rank) { return static_cast<std::size_t>(7 + rank); });
  EXPECT_EQ(live().communicators, 0);
}

TEST_F(Nccl, AHangingOperationEndsWhenItIsAborted) {
  hang(0, 0);
  begin_all_reduce(
      [](int, ncclComm_t communicator, cudaStream_t stream, std::span<float> values) {
        const cudaEvent_t end = new_event();
        EXPECT_EQ(wait_for(communicator), ncclSuccess);
        EXPECT_EQ(cudaEventRecord(end, stream), cudaSuccess);
        std::this_thread::sleep_for(std::chrono::milliseconds(10));
        EXPECT_EQ(cudaEventQuery(end), cudaErrorNotReady);
        EXPECT_EQ(cudaFree(values.data()), cudaErrorInvalidValue);
        expect_poison_after_abort(communicator, stream, values);
        EXPECT_EQ(cudaFree(values.data()), cudaSuccess);
      },
      [](int) { return 8U; });
}

TEST_F(Nccl, AReportedErrorIsToldAndNothingEnds) {
  report_async_error(0, ncclRemoteError, "the cable is out", 1);
  const ncclUniqueId id = new_id();
  as_ranks(2, [&](int rank) {
    const ncclComm_t communicator = begin_joining(rank, 2, id);
    EXPECT_EQ(rank == 1 ? wait_for_error(communicator) : wait_for(communicator),
              rank == 1 ? ncclRemoteError : ncclSuccess);
    EXPECT_STREQ(ncclGetLastError(communicator), rank == 1 ? "the cable is out" : "");
    EXPECT_EQ(ncclCommAbort(communicator), ncclSuccess);
  });
}

TEST_F(Nccl, AbortEndsWaitingForRanksThatNeverCome) {
  const ncclComm_t communicator = begin_joining(0, 2, new_id());
  ncclResult_t state = ncclSuccess;
  EXPECT_EQ(ncclCommGetAsyncError(communicator, &state), ncclSuccess);
  EXPECT_EQ(state, ncclInProgress);
  EXPECT_EQ(ncclCommAbort(communicator), ncclSuccess);
  EXPECT_EQ(live().communicators, 0);
}

TEST_F(Nccl, ADeviceHasOneRank) {
  const ncclUniqueId id = new_id();
  const ncclComm_t first = begin_joining(0, 2, id);
  const ncclComm_t second = begin_joining(1, 2, id);
  EXPECT_EQ(wait_for(first), ncclInvalidUsage);
  EXPECT_EQ(wait_for(second), ncclInvalidUsage);
  EXPECT_THAT(ncclGetLastError(first), HasSubstr("Duplicate GPU"));
}

TEST_F(Nccl, MisusesAreReported) {
  const ncclComm_t communicator = join(0, 1, new_id());
  const cudaStream_t stream = new_stream();
  std::vector<float> host(4);
  const std::span<float> values = device_memory<float>(4);
  const auto reduce_into = [&](void* receive) {
    return ncclAllReduce(values.data(), receive, 3, ncclFloat32, ncclSum, communicator, stream);
  };
  EXPECT_EQ(launched(communicator, reduce_into(host.data())), ncclSuccess);
  EXPECT_THAT(misuses(), Contains(HasSubstr("no device's memory")));
  EXPECT_EQ(launched(communicator, reduce_into(values.data() + 1)), ncclSuccess);
  EXPECT_THAT(misuses(), Contains(HasSubstr("overlaps")));
  ASSERT_EQ(cudaStreamSynchronize(stream), cudaSuccess);

  void* handle = nullptr;
  ASSERT_EQ(ncclCommRegister(communicator, values.data(), 16, &handle), ncclSuccess);
  EXPECT_EQ(cudaFree(values.data()), cudaErrorInvalidValue);
  EXPECT_EQ(live().registrations, 1);
  ASSERT_EQ(ncclCommDeregister(communicator, handle), ncclSuccess);
  EXPECT_EQ(cudaFree(values.data()), cudaSuccess);

  EXPECT_EQ(ncclCommDestroy(communicator), ncclSuccess);
  EXPECT_EQ(reduce_into(values.data()), ncclInvalidArgument);
  EXPECT_THAT(misuses(), Contains(HasSubstr("a communicator that was destroyed")));
}

TEST_F(Nccl, EndingInAnotherOrderIsReported) {
  const ncclComm_t unfinalized = join(0, 1, new_id());
  EXPECT_EQ(ncclCommDestroy(unfinalized), ncclSuccess);
  EXPECT_THAT(misuses(), Contains(HasSubstr("a communicator that is not finalized")));

  const ncclComm_t communicator = join(0, 1, new_id());
  EXPECT_EQ(launched(communicator, ncclCommFinalize(communicator)), ncclSuccess);
  const std::span<float> values = device_memory<float>(4);
  EXPECT_EQ(ncclAllReduce(values.data(), values.data(), 4, ncclFloat32, ncclSum, communicator,
                          new_stream()),
            ncclInvalidArgument);
  EXPECT_EQ(ncclCommFinalize(communicator), ncclInvalidArgument);
  EXPECT_THAT(misuses(), Contains(HasSubstr("ncclCommFinalize with a communicator that was fin")));
  EXPECT_EQ(ncclCommDestroy(communicator), ncclSuccess);
}

TEST_F(Nccl, FinalizingWithOperationsInFlightIsReported) {
  hang(0, 0);
  const ncclComm_t communicator = join(0, 1, new_id());
  const std::span<float> values = device_memory<float>(4);
  const cudaStream_t stream = new_stream();
  const ncclResult_t result =
      ncclAllReduce(values.data(), values.data(), 4, ncclFloat32, ncclSum, communicator, stream);
  EXPECT_EQ(launched(communicator, result), ncclSuccess);
  EXPECT_EQ(ncclCommFinalize(communicator), ncclInProgress);
  EXPECT_THAT(misuses(), Contains(HasSubstr("while streams have operations")));
  EXPECT_EQ(ncclCommAbort(communicator), ncclSuccess);
}

TEST_F(Nccl, ACallBeforeTheLastOneIsCompleteIsRefused) {
  const ncclComm_t communicator = begin_joining(0, 2, new_id());
  EXPECT_EQ(ncclCommFinalize(communicator), ncclInvalidArgument);
  EXPECT_THAT(misuses(), Contains(HasSubstr("before the communicator's last call was complete")));
}

TEST_F(Nccl, TwoThreadsAtATimeAreReported) {
  if (kRacesEndTheProgram) GTEST_SKIP() << "ThreadSanitizer would end it, and rightly";
  const ncclComm_t communicator = join(0, 1, new_id());
  std::vector<std::jthread> threads;
  for (int i = 0; i < 2; ++i) {
    threads.emplace_back([communicator] {
      for (ncclResult_t state = ncclSuccess; misuses().empty();) {
        ncclCommGetAsyncError(communicator, &state);
      }
    });
  }
  threads.clear();
  EXPECT_THAT(misuses(), Contains(HasSubstr("while another thread is inside")));
}

/// The usual way: a gradient is made in the user's stream, reduced in another, and used in the
/// user's. Returns how many results were wrong.
int wrong_results_of_steps(int steps) {
  std::atomic<int> wrong = 0;
  const ncclUniqueId id = new_id();
  as_ranks(2, [&](int rank) {
    const ncclComm_t communicator = join(rank, 2, id);
    const cudaStream_t user = new_stream();
    const cudaStream_t own = new_stream();
    const cudaEvent_t ready = new_event();
    const cudaEvent_t done = new_event();
    const std::span<std::uint32_t> gradient = device_memory<std::uint32_t>(16);
    const std::span<std::uint32_t> results =
        device_memory<std::uint32_t>(static_cast<std::size_t>(steps));
    for (int step = 0; step < steps; ++step) {
      cudaMemsetAsync(gradient.data(), step + rank, gradient.size_bytes(), user);
      cudaEventRecord(ready, user);
      cudaStreamWaitEvent(own, ready, 0);
      const ncclResult_t result = ncclAllReduce(gradient.data(), gradient.data(), gradient.size(),
                                                ncclUint32, ncclSum, communicator, own);
      EXPECT_EQ(launched(communicator, result), ncclSuccess);
      cudaEventRecord(done, own);
      cudaStreamWaitEvent(user, done, 0);
      cudaMemcpyAsync(&results[static_cast<std::size_t>(step)], &gradient[3], sizeof(std::uint32_t),
                      cudaMemcpyDeviceToDevice, user);
    }
    EXPECT_EQ(cudaStreamSynchronize(user), cudaSuccess);
    EXPECT_EQ(cudaStreamSynchronize(own), cudaSuccess);
    for (int step = 0; step < steps; ++step) {
      const std::uint32_t sum = static_cast<std::uint32_t>(2 * step + 1) * 0x01010101U;
      if (results[static_cast<std::size_t>(step)] != sum) ++wrong;
    }
  });
  return wrong;
}

TEST_F(Nccl, StepsWithAllWaits) {
  for (std::uint64_t seed = 0; seed < 10; ++seed) {
    reset({.seed = seed});
    EXPECT_EQ(wrong_results_of_steps(5), 0);
    EXPECT_EQ(waits(1), 10);
    expect_no_misuses();
  }
}

TEST_F(Nccl, EachWaitIsNeeded) {
  for (int wait = 0; wait < 10; ++wait) {
    SCOPED_TRACE(wait);
    expect_seen([] { return wrong_results_of_steps(5); }, [=] { skip_wait(wait, 1); });
  }
}

}  // namespace
}  // namespace kolo::doubles
