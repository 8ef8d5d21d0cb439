#pragma once

/// What the tests of the doubles share: owners of what they allocate, and ranks as threads.

#include <cuda_runtime_api.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nccl.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <span>
#include <thread>
#include <vector>

#include "doubles/doubles.h"

namespace kolo::doubles {

/// `count` elements of the current device's memory, which a test reads and writes itself.
template <typename Element>
std::span<Element> device_memory(std::size_t count) {
  void* address = nullptr;
  EXPECT_EQ(cudaMalloc(&address, count * sizeof(Element)), cudaSuccess);
  return {static_cast<Element*>(address), count};
}

inline cudaStream_t new_stream() {
  cudaStream_t stream = nullptr;
  EXPECT_EQ(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
  return stream;
}

inline cudaEvent_t new_event(unsigned flags = cudaEventDisableTiming) {
  cudaEvent_t event = nullptr;
  EXPECT_EQ(cudaEventCreateWithFlags(&event, flags), cudaSuccess);
  return event;
}

/// Each rank in a thread of its own, on the device of its number.
inline void as_ranks(int ranks, const std::function<void(int rank)>& body) {
  std::vector<std::jthread> threads;
  for (int rank = 0; rank < ranks; ++rank) {
    threads.emplace_back([&body, rank] {
      EXPECT_EQ(cudaSetDevice(rank), cudaSuccess);
      body(rank);
    });
  }
}

/// Polls, as who must not block does, until nothing is in progress.
inline ncclResult_t wait_for(ncclComm_t communicator) {
  ncclResult_t state = ncclInProgress;
  while (state == ncclInProgress) {
    EXPECT_EQ(ncclCommGetAsyncError(communicator, &state), ncclSuccess);
    std::this_thread::sleep_for(std::chrono::microseconds(20));
  }
  return state;
}

/// A result that is right whatever was launched first: launched, and nothing left to launch.
inline ncclResult_t launched(ncclComm_t communicator, ncclResult_t result) {
  return result == ncclInProgress ? wait_for(communicator) : result;
}

inline ncclComm_t begin_joining(int rank, int ranks, const ncclUniqueId& id) {
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  ncclComm_t communicator = nullptr;
  EXPECT_EQ(ncclCommInitRankConfig(&communicator, ranks, id, rank, &config), ncclInProgress);
  return communicator;
}

inline ncclComm_t join(int rank, int ranks, const ncclUniqueId& id) {
  const ncclComm_t communicator = begin_joining(rank, ranks, id);
  EXPECT_EQ(wait_for(communicator), ncclSuccess);
  return communicator;
}

inline ncclUniqueId new_id() {
  ncclUniqueId id;
  EXPECT_EQ(ncclGetUniqueId(&id), ncclSuccess);
  return id;
}

#if defined(__SANITIZE_THREAD__)
constexpr bool kRacesEndTheProgram = true;
#else
constexpr bool kRacesEndTheProgram = false;
#endif

/// What `mutate` spoils must be seen: by ThreadSanitizer, or else in the values of a run with some
/// seed, of which `run` returns how many are wrong.
void expect_seen(const std::function<int()>& run, const std::function<void()>& mutate);

inline void expect_no_misuses() { EXPECT_THAT(misuses(), ::testing::IsEmpty()); }

class Doubles : public ::testing::Test {
 protected:
  Doubles() { reset(); }
  ~Doubles() override { reset(); }
};

class Nccl : public Doubles {};

}  // namespace kolo::doubles
