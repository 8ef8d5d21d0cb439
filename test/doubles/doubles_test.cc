// Streams, events and memory of the doubles.

#include <algorithm>

#include "doubles/flag.h"
#include "doubles/support.h"

namespace kolo::doubles {
namespace {

using ::testing::Contains;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class Streams : public Doubles {};

TEST_F(Streams, WorkIsDoneInOrder) {
  const cudaStream_t stream = new_stream();
  const std::span<int> memory = device_memory<int>(100);
  for (int i = 0; i < 100; ++i) {
    ASSERT_EQ(cudaMemcpyAsync(&memory[static_cast<std::size_t>(i)], &i, sizeof i,
                              cudaMemcpyHostToDevice, stream),
              cudaSuccess);
    ASSERT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
  }
  for (std::size_t i = 1; i < 100; ++i) {
    ASSERT_EQ(
        cudaMemcpyAsync(&memory[i], &memory[i - 1], sizeof(int), cudaMemcpyDeviceToDevice, stream),
        cudaSuccess);
  }
  ASSERT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
  EXPECT_THAT(memory, Each(0));
  EXPECT_EQ(calls("cudaStreamSynchronize"), 101);
  expect_no_misuses();
}

TEST_F(Streams, HostFunctionsRunInOrderAndMayCallNothing) {
  const cudaStream_t stream = new_stream();
  std::vector<int> seen;
  for (int i = 0; i < 3; ++i) {
    ASSERT_EQ(cudaLaunchHostFunc(
                  stream,
                  [](void* data) {
                    auto& numbers = *static_cast<std::vector<int>*>(data);
                    numbers.push_back(static_cast<int>(numbers.size()));
                  },
                  &seen),
              cudaSuccess);
  }
  ASSERT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
  EXPECT_THAT(seen, ElementsAre(0, 1, 2));
  expect_no_misuses();
  ASSERT_EQ(cudaLaunchHostFunc(
                stream, [](void* event) { cudaEventQuery(static_cast<cudaEvent_t>(event)); },
                new_event()),
            cudaSuccess);
  ASSERT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
  EXPECT_THAT(misuses(), Contains(HasSubstr("cudaEventQuery from a host function")));
}

/// Makes the stream wait until the test lets it go on.
class Gate {
 public:
  explicit Gate(cudaStream_t stream) {
    const auto pass = [](void* gate) {
      static_cast<Gate*>(gate)->open_.wait();
      static_cast<Gate*>(gate)->passed_.raise();
    };
    EXPECT_EQ(cudaLaunchHostFunc(stream, pass, this), cudaSuccess);
  }
  ~Gate() {
    open();
    passed_.wait();
  }
  Gate(const Gate&) = delete;
  Gate& operator=(const Gate&) = delete;
  void open() { open_.raise(); }

 private:
  Flag open_;
  Flag passed_;
};

TEST_F(Streams, AnEventIsThePlaceWhereItWasRecorded) {
  const cudaStream_t stream = new_stream();
  const cudaStream_t other = new_stream();
  const cudaEvent_t event = new_event();
  EXPECT_EQ(cudaEventQuery(event), cudaSuccess);  // never recorded
  ASSERT_EQ(cudaEventRecord(event, stream), cudaSuccess);
  Gate gate(stream);
  ASSERT_EQ(cudaEventSynchronize(event), cudaSuccess);
  // A wait is for the place that it found, also if the event is recorded again.
  ASSERT_EQ(cudaStreamWaitEvent(other, event, 0), cudaSuccess);
  ASSERT_EQ(cudaEventRecord(event, stream), cudaSuccess);
  EXPECT_EQ(cudaEventQuery(event), cudaErrorNotReady);
  EXPECT_EQ(cudaStreamSynchronize(other), cudaSuccess);
  gate.open();
  ASSERT_EQ(cudaEventSynchronize(event), cudaSuccess);
  EXPECT_EQ(cudaEventQuery(event), cudaSuccess);
}

TEST_F(Streams, TimeBetweenEvents) {
  const cudaStream_t stream = new_stream();
  const cudaEvent_t start = new_event(cudaEventDefault);
  const cudaEvent_t end = new_event(cudaEventDefault);
  float milliseconds = -1;
  EXPECT_EQ(cudaEventElapsedTime(&milliseconds, start, end), cudaErrorInvalidResourceHandle);
  ASSERT_EQ(cudaEventRecord(start, stream), cudaSuccess);
  {
    const Gate gate(stream);
    ASSERT_EQ(cudaEventRecord(end, stream), cudaSuccess);
    EXPECT_EQ(cudaEventElapsedTime(&milliseconds, start, end), cudaErrorNotReady);
  }
  ASSERT_EQ(cudaEventSynchronize(end), cudaSuccess);
  EXPECT_EQ(cudaEventElapsedTime(&milliseconds, start, end), cudaSuccess);
  EXPECT_GE(milliseconds, 0);
  EXPECT_EQ(cudaEventElapsedTime(&milliseconds, start, new_event()),
            cudaErrorInvalidResourceHandle);
}

/// A producer and a consumer in two streams, each waiting for the other: how many wrong values
/// came.
int wrong_values_of_pipeline(int rounds) {
  const cudaStream_t producer = new_stream();
  const cudaStream_t consumer = new_stream();
  const cudaEvent_t produced = new_event();
  const cudaEvent_t consumed = new_event();
  const std::span<unsigned char> buffer = device_memory<unsigned char>(64);
  const std::span<unsigned char> results =
      device_memory<unsigned char>(static_cast<std::size_t>(rounds));
  for (int round = 0; round < rounds; ++round) {
    EXPECT_EQ(cudaStreamWaitEvent(producer, consumed, 0), cudaSuccess);
    EXPECT_EQ(cudaMemsetAsync(buffer.data(), round, buffer.size(), producer), cudaSuccess);
    EXPECT_EQ(cudaEventRecord(produced, producer), cudaSuccess);
    EXPECT_EQ(cudaStreamWaitEvent(consumer, produced, 0), cudaSuccess);
    EXPECT_EQ(cudaMemcpyAsync(&results[static_cast<std::size_t>(round)], &buffer[7], 1,
                              cudaMemcpyDeviceToDevice, consumer),
              cudaSuccess);
    EXPECT_EQ(cudaEventRecord(consumed, consumer), cudaSuccess);
  }
  EXPECT_EQ(cudaStreamSynchronize(consumer), cudaSuccess);
  int wrong = 0;
  for (int round = 0; round < rounds; ++round) {
    if (results[static_cast<std::size_t>(round)] != round) ++wrong;
  }
  EXPECT_EQ(cudaStreamSynchronize(producer), cudaSuccess);
  return wrong;
}

TEST_F(Streams, WaitsOrderStreams) {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    reset({.seed = seed});
    EXPECT_EQ(wrong_values_of_pipeline(8), 0);
    EXPECT_EQ(waits(), 15);  // the first wait is for nothing
  }
}

TEST_F(Streams, EachWaitIsNeeded) {
  for (int wait = 0; wait < 15; ++wait) {
    SCOPED_TRACE(wait);
    expect_seen([] { return wrong_values_of_pipeline(8); }, [=] { skip_wait(wait); });
  }
}

TEST_F(Streams, MissingWaitsAreSeenWithMostSeeds) {
  if (kRacesEndTheProgram) GTEST_SKIP() << "ThreadSanitizer would end it, and rightly";
  int seen = 0;
  for (std::uint64_t seed = 0; seed < 40; ++seed) {
    reset({.seed = seed});
    for (int wait = 0; wait < 15; wait += 2) skip_wait(wait);
    if (wrong_values_of_pipeline(8) > 0) ++seen;
  }
  EXPECT_GE(seen, 30);
}

class Control : public Doubles {};

TEST_F(Control, TheChosenCallFails) {
  fail("cudaStreamCreateWithFlags", 1, cudaErrorMemoryAllocation);
  fail("ncclGetUniqueId", 0, ncclSystemError);
  cudaStream_t stream = new_stream();
  EXPECT_EQ(cudaStreamCreateWithFlags(&stream, 0), cudaErrorMemoryAllocation);
  EXPECT_EQ(cudaPeekAtLastError(), cudaErrorMemoryAllocation);
  EXPECT_EQ(cudaGetLastError(), cudaErrorMemoryAllocation);
  EXPECT_EQ(cudaGetLastError(), cudaSuccess);
  EXPECT_EQ(cudaStreamCreateWithFlags(&stream, 0), cudaSuccess);
  ncclUniqueId id;
  EXPECT_EQ(ncclGetUniqueId(&id), ncclSystemError);
  EXPECT_THAT(ncclGetLastError(nullptr), HasSubstr("ncclGetUniqueId"));
}

TEST_F(Control, CallsAreThoseOfADevice) {
  fail("cudaEventCreateWithFlags", 1, cudaErrorInvalidValue, 2);
  as_ranks(4, [](int rank) {
    cudaEvent_t event = nullptr;
    EXPECT_EQ(cudaEventCreateWithFlags(&event, 0), cudaSuccess);
    EXPECT_EQ(cudaEventCreateWithFlags(&event, 0), rank == 2 ? cudaErrorInvalidValue : cudaSuccess);
  });
  EXPECT_EQ(calls("cudaEventCreateWithFlags"), 8);
  EXPECT_EQ(calls("cudaEventCreateWithFlags", 1), 2);
  EXPECT_EQ(live().events, 7);
}

TEST_F(Control, TheChosenEventIsSaidToBeReached) {
  answer_early(1, 0);
  const cudaStream_t stream = new_stream();
  const cudaEvent_t first = new_event();
  const cudaEvent_t second = new_event();
  EXPECT_EQ(cudaEventQuery(first), cudaSuccess);  // never recorded, so not counted
  const Gate gate(stream);
  ASSERT_EQ(cudaEventRecord(second, stream), cudaSuccess);
  ASSERT_EQ(cudaEventRecord(first, stream), cudaSuccess);
  for (int time = 0; time < 2; ++time) {
    EXPECT_EQ(cudaEventQuery(first), cudaErrorNotReady);
    EXPECT_EQ(cudaEventQuery(second), cudaSuccess);
  }
  ASSERT_EQ(cudaEventRecord(second, stream), cudaSuccess);
  EXPECT_EQ(cudaEventQuery(second), cudaErrorNotReady);
  EXPECT_EQ(asked(0), 3);
  EXPECT_EQ(asked(1), 0);
}

TEST_F(Control, DevicesAndVersions) {
  reset({.devices = 3, .nccl_version = 21800});
  int number = 0;
  EXPECT_EQ(cudaGetDeviceCount(&number), cudaSuccess);
  EXPECT_EQ(number, 3);
  EXPECT_EQ(cudaSetDevice(3), cudaErrorInvalidDevice);
  EXPECT_EQ(cudaSetDevice(2), cudaSuccess);
  EXPECT_EQ(cudaGetDevice(&number), cudaSuccess);
  EXPECT_EQ(number, 2);
  EXPECT_EQ(ncclGetVersion(&number), ncclSuccess);
  EXPECT_EQ(number, 21800);
  char one[16];
  char two[16];
  EXPECT_EQ(cudaDeviceGetPCIBusId(one, sizeof one, 0), cudaSuccess);
  EXPECT_EQ(cudaDeviceGetPCIBusId(two, sizeof two, 1), cudaSuccess);
  EXPECT_STRNE(one, two);
  reset({.devices = 0});
  EXPECT_EQ(cudaGetDeviceCount(&number), cudaErrorNoDevice);
}

TEST_F(Control, WhatIsLeftIsCounted) {
  EXPECT_EQ(live(), Live{});
  const cudaStream_t stream = new_stream();
  const cudaEvent_t event = new_event();
  const std::span<int> memory = device_memory<int>(1);
  EXPECT_EQ(cudaEventRecord(event, nullptr), cudaSuccess);  // the default stream is nobody's
  EXPECT_EQ(live(), (Live{.streams = 1, .events = 1, .allocations = 1}));
  EXPECT_EQ(cudaStreamDestroy(stream), cudaSuccess);
  EXPECT_EQ(cudaEventDestroy(event), cudaSuccess);
  EXPECT_EQ(cudaFree(memory.data()), cudaSuccess);
  EXPECT_EQ(live(), Live{});
  expect_no_misuses();
  EXPECT_EQ(cudaEventRecord(event, nullptr), cudaErrorInvalidResourceHandle);
  EXPECT_EQ(cudaStreamSynchronize(stream), cudaErrorInvalidResourceHandle);
  EXPECT_THAT(misuses(), ElementsAre(HasSubstr("cudaEventRecord of an event that was destroyed"),
                                     HasSubstr("cudaStreamSynchronize in a stream that was")));
}

TEST_F(Control, AnEventBelongsToItsDevice) {
  const cudaEvent_t event = new_event();
  ASSERT_EQ(cudaSetDevice(1), cudaSuccess);
  EXPECT_EQ(cudaEventRecord(event, new_stream()), cudaErrorInvalidResourceHandle);
}

class Memory : public Doubles {};

TEST_F(Memory, IsPoisonedAtBothEnds) {
  const std::span<unsigned char> memory = device_memory<unsigned char>(100);
  EXPECT_THAT(memory, Each(kPoison));
  std::ranges::fill(memory, 1);
  EXPECT_EQ(cudaFree(memory.data()), cudaSuccess);
  EXPECT_THAT(memory, Each(kPoison));
  EXPECT_EQ(cudaFree(memory.data()), cudaErrorInvalidValue);
  EXPECT_THAT(misuses(), Contains(HasSubstr("cudaFree of")));
}

TEST_F(Memory, InUseIsNotFreed) {
  const cudaStream_t stream = new_stream();
  const std::span<int> memory = device_memory<int>(100);
  {
    const Gate gate(stream);
    ASSERT_EQ(cudaMemsetAsync(memory.data(), 0, memory.size_bytes(), stream), cudaSuccess);
    EXPECT_EQ(cudaFree(memory.data()), cudaErrorInvalidValue);
    EXPECT_THAT(misuses(), ElementsAre(HasSubstr("that 1 queued or running operations use")));
  }
  ASSERT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
  EXPECT_EQ(cudaFree(memory.data()), cudaSuccess);
}

TEST_F(Memory, LateAndLongUsesAreReported) {
  const cudaStream_t stream = new_stream();
  const std::span<int> memory = device_memory<int>(4);
  const std::span<int> freed = device_memory<int>(4);
  ASSERT_EQ(cudaFree(freed.data()), cudaSuccess);
  const std::span<int> target = device_memory<int>(8);
  ASSERT_EQ(cudaMemcpyAsync(target.data(), freed.data(), 16, cudaMemcpyDefault, stream),
            cudaSuccess);
  ASSERT_EQ(cudaMemcpyAsync(target.data(), memory.data(), 20, cudaMemcpyDefault, stream),
            cudaSuccess);
  EXPECT_THAT(misuses(), ElementsAre(HasSubstr("freed"), HasSubstr("beyond")));
}

TEST_F(Memory, OfNcclIsFreedByNccl) {
  void* memory = nullptr;
  ASSERT_EQ(ncclMemAlloc(&memory, 8), ncclSuccess);
  EXPECT_EQ(cudaFree(memory), cudaErrorInvalidValue);
  EXPECT_EQ(ncclMemFree(memory), ncclSuccess);
  EXPECT_THAT(misuses(), ElementsAre(HasSubstr("not allocated by its counterpart")));
}

}  // namespace
}  // namespace kolo::doubles
