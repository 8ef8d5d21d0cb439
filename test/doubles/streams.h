#pragma once

/// What CUDA's handles of streams and events point to. Both stay until reset(), so that a late use
/// of a handle is seen.

#include <cuda_runtime_api.h>

#include <atomic>
#include <chrono>
#include <deque>
#include <mutex>
#include <string_view>

#include "doubles/control.h"
#include "doubles/flag.h"
#include "doubles/worker.h"

struct CUstream_st {
  CUstream_st(int its_device, kolo::doubles::Delays delays) : device(its_device), worker(delays) {}

  const int device;
  std::atomic<bool> destroyed = false;
  kolo::doubles::Worker worker;
};

namespace kolo::doubles {

/// A place in a stream that was recorded. complete() orders what the stream did before it before
/// what follows wait(), or is_complete() that says so.
class Record {
 public:
  void complete() {
    time_ = std::chrono::steady_clock::now();
    complete_.raise();
  }
  bool is_complete() const { return complete_.is_raised(); }
  /// The same, unless a test wants a lie, which orders nothing.
  bool is_said_to_be_complete() {
    if (!asked_.exchange(true, std::memory_order_relaxed)) {
      early_.store(answer_is_early(), std::memory_order_relaxed);
    }
    return early_.load(std::memory_order_relaxed) || is_complete();
  }
  void wait() { complete_.wait(); }
  /// Of a complete one.
  std::chrono::steady_clock::time_point time() const { return time_; }

 private:
  std::chrono::steady_clock::time_point time_;
  Flag complete_;
  std::atomic<bool> asked_ = false;
  std::atomic<bool> early_ = false;
};

}  // namespace kolo::doubles

struct CUevent_st {
  CUevent_st(int its_device, bool timed) : device(its_device), is_timed(timed) {}

  const int device;
  const bool is_timed;
  std::atomic<bool> destroyed = false;
  std::mutex mutex;
  std::deque<kolo::doubles::Record> records;
};

namespace kolo::doubles {

cudaStream_t create_stream(int device);
/// The stream that a handle means, 0 that of `device`; null, and a misuse, if it was destroyed.
cudaStream_t find_stream(cudaStream_t handle, std::string_view function,
                         int device = current_device());
/// False if it was destroyed before.
bool destroy_stream(cudaStream_t stream);

cudaEvent_t create_event(int device, bool is_timed);
bool destroy_event(cudaEvent_t event);

/// A new place in the stream. It lives until reset().
Record& record(cudaEvent_t event, cudaStream_t stream);
/// The newest place, or null.
Record* newest_record(cudaEvent_t event);

int live_streams();
int live_events();
/// After all work has been done.
void reset_streams();

}  // namespace kolo::doubles
