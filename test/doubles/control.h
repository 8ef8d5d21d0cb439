#pragma once

/// What every double of a call asks first: whether it shall fail; and where it tells what it should
/// not have been asked for.

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "doubles/doubles.h"

namespace kolo::doubles {

constexpr std::array<std::string_view, 50> kFunctions = {
    "cudaDeviceGetPCIBusId",
    "cudaDeviceGetStreamPriorityRange",
    "cudaDriverGetVersion",
    "cudaEventCreateWithFlags",
    "cudaEventDestroy",
    "cudaEventElapsedTime",
    "cudaEventQuery",
    "cudaEventRecord",
    "cudaEventSynchronize",
    "cudaFree",
    "cudaFreeHost",
    "cudaGetDevice",
    "cudaGetDeviceCount",
    "cudaGetDeviceProperties",
    "cudaGetDriverEntryPointByVersion",
    "cudaHostAlloc",
    "cudaLaunchHostFunc",
    "cudaMalloc",
    "cudaMemcpyAsync",
    "cudaMemsetAsync",
    "cudaRuntimeGetVersion",
    "cudaSetDevice",
    "cudaStreamCreateWithFlags",
    "cudaStreamCreateWithPriority",
    "cudaStreamDestroy",
    "cudaStreamSynchronize",
    "cudaStreamWaitEvent",
    "launch_table",
    "ncclAllGather",
    "ncclAllReduce",
    "ncclBroadcast",
    "ncclCommAbort",
    "ncclCommDeregister",
    "ncclCommDestroy",
    "ncclCommFinalize",
    "ncclCommGetAsyncError",
    "ncclCommInitRankConfig",
    "ncclCommRegister",
    "ncclGetUniqueId",
    "ncclGetVersion",
    "ncclGroupEnd",
    "ncclGroupStart",
    "ncclMemAlloc",
    "ncclMemFree",
    "ncclRecv",
    "ncclRedOpCreatePreMulSum",
    "ncclRedOpDestroy",
    "ncclReduce",
    "ncclReduceScatter",
    "ncclSend",
};

/// A function by its place in kFunctions. Other names do not compile.
class Function {
 public:
  consteval Function(const char* name)  // NOLINT(google-explicit-constructor)
      : index_(place_of(name)) {}

  std::size_t index() const { return index_; }
  std::string_view name() const { return kFunctions[index_]; }

 private:
  static consteval std::size_t place_of(std::string_view name) {
    std::size_t index = 0;
    while (kFunctions.at(index) != name) ++index;
    return index;
  }

  std::size_t index_;
};

/// Counts a call of the calling thread's current device. Returns the error that a test has asked
/// for, or 0.
int enter(Function function);

/// Whether the wait that comes now is to be left out.
bool wait_is_skipped();
/// Whether the event that is asked for now, for the first time, is said to be reached.
bool answer_is_early();

void report_misuse(std::string message);

const Settings& settings();
std::chrono::microseconds longest_delay_of(int device);

/// Devices are numbered from 0; those of a test are few.
constexpr int kMostDevices = 64;
int current_device();
void set_current_device(int device);
/// Whether it was made current by cudaSetDevice, which makes a context on it.
bool has_context(int device);

/// In a thread that does a stream's work, where host functions run, which may call nothing.
void mark_as_stream_thread();

/// Forgets everything; reset() calls it.
void reset_control(const Settings& settings);

}  // namespace kolo::doubles
