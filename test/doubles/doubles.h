#pragma once

/// CUDA's runtime and NCCL in host memory, for tests without a device: what a test sets, and what
/// it can ask.
///
/// Link kolo_cuda_doubles instead of libcudart and libnccl. Ranks are threads of one process, each
/// with a current device of its own. Streams are threads that do their work later, in order, after
/// random delays. Memory of a device is memory of the host that a test may read and write itself,
/// full of `kPoison` after it was allocated and again after it was freed, so that a missing wait
/// gives wrong values, or a report of ThreadSanitizer: only what CUDA says orders two accesses does
/// so here.
///
/// Collectives are computed when all ranks have come; each gets its result a while later, at a time
/// of its own. They go in the order of ranks, in float32 for 16-bit dtypes, and are rounded once;
/// ncclAvg of floating dtypes multiplies by 1 / ranks first, as NCCL does. A communicator that is
/// not blocking returns ncclInProgress from every call that queues something, and queues it a while
/// later.
///
/// NCCL does not check that ranks agree; here they must: a mismatch is an error of the communicator
/// on all of its ranks. Operations of a communicator with an error never end, until the rank's
/// ncclCommAbort, which poisons what they would have written.
///
/// What differs from the original: stream 0 is a stream of the current device like any other, which
/// other streams do not wait for; cudaFree does not wait for the device, but refuses memory that is
/// in use.

#include <cuda_runtime_api.h>
#include <nccl.h>

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace kolo::doubles {

constexpr unsigned char kPoison = 0xFB;

/// A call is one of the device that is current in the calling thread: so a test of ranks as threads
/// can name the n-th call of a rank, which does not depend on the other ranks' threads.
constexpr int kAnyDevice = -1;
constexpr int kAnyRank = -1;

struct Settings {
  /// Delays follow from it (and from how the machine schedules threads).
  std::uint64_t seed = 1;
  /// Before each piece of work of a stream.
  std::chrono::microseconds longest_delay{200};
  /// A device whose work is delayed ten times as long, and results of collectives a hundred times,
  /// so that nothing is late there by chance alone.
  int slow_device = -1;
  int devices = 4;
  int nccl_version = NCCL_VERSION_CODE;
  /// The newest CUDA that the driver is for; 0: there is no driver.
  int driver_version = CUDART_VERSION;
  /// No communicator is through with ncclCommFinalize before so many have begun it.
  int finalized_together = 0;
  /// Whether kernels and collectives may use memory that no call here has allocated.
  bool host_memory_allowed = false;
};

/// Ends all streams, aborts all communicators, frees all memory, forgets all counts, and begins
/// anew. No other thread may be inside a call, and all handles of before are invalid.
void reset(const Settings& settings = {});

/// The n-th call (from 0, counted from reset()) of the function returns `error` and does nothing
/// else.
void fail(std::string_view function, std::int64_t n, cudaError_t error, int device = kAnyDevice);
void fail(std::string_view function, std::int64_t n, ncclResult_t error, int device = kAnyDevice);

/// The n-th cudaStreamWaitEvent of an event that was recorded succeeds without waiting. waits()
/// says how many there were, so that a test can leave out each in turn.
void skip_wait(std::int64_t n, int device = kAnyDevice);
std::int64_t waits(int device = kAnyDevice);

/// cudaEventQuery says of the n-th recorded event that it is reached, also when it is not. They are
/// counted when they are asked for the first time, so that it does not matter how often that is.
/// asked() says how many there were, so that a test can lie about each in turn.
void answer_early(std::int64_t n, int device = kAnyDevice);
std::int64_t asked(int device = kAnyDevice);

/// Communicators are numbered from 0 in the order of their ncclGetUniqueId; their operations (a
/// collective, a send or a receive, each, also within a group) from 0 on each rank. The operation
/// never ends, until it is aborted. To be called before the operation is.
void hang(int communicator, std::int64_t operation);

/// As if NCCL had found an error: ncclCommGetAsyncError and ncclGetLastError tell it from now on.
void report_async_error(int communicator, ncclResult_t error, std::string_view message,
                        int rank = kAnyRank);

/// How often the function was called since reset(): "cudaStreamSynchronize" and so on, and
/// "launch_table" for the copying kernel.
std::int64_t calls(std::string_view function, int device = kAnyDevice);

/// What exists: created and not yet destroyed.
struct Live {
  int streams = 0;
  int events = 0;
  int allocations = 0;
  int communicators = 0;
  int registrations = 0;
  int reduction_operators = 0;

  bool operator==(const Live&) const = default;
};
Live live();

/// What was done that CUDA or NCCL forbid, or that can only be a mistake: memory freed while in
/// use, used after it was freed, of another device, or beyond its end; a communicator used by two
/// threads at a time, before its last call was complete, or after it was finalized; one finalized
/// with operations in flight, or destroyed before it is finalized unless its calls block; a handle
/// used after it was destroyed; calls from within a host function. A test ends with expecting none.
std::vector<std::string> misuses();

}  // namespace kolo::doubles
