#pragma once

/// Moments in a stream.

#include <cuda_runtime_api.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <string>

#include "base/device.h"
#include "base/status.h"

namespace kolo::core::cuda {

/// Whether what streams have been told to run could be relied on. Thread-safe.
class Fate {
 public:
  /// The first failure lasts. By one thread at a time.
  void fail(std::string error);
  Status status() const;

 private:
  std::string error_;  // written before failed_
  std::atomic<bool> failed_ = false;
};

struct EventKind {
  /// Whether Event::since() can be asked for.
  bool timed = false;
  /// Of the work before it; may be null.
  std::shared_ptr<const Fate> fate = nullptr;
};

/// Owns a CUDA event that was recorded.
class Event final : public DeviceEvent {
 public:
  /// Behind all that is in `stream`, one of the current GPU.
  static Result<std::shared_ptr<Event>> record(cudaStream_t stream, EventKind kind = {});
  ~Event() override;
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;

  /// Errors also tell of a fate that has failed.
  Result<bool> reached() const override;
  Status synchronize() const override;

  /// What is put into `stream` from now on runs after this moment. The host waits for nothing.
  Status make_wait(cudaStream_t stream) const;

  /// The GPU's time between two timed events that it has reached.
  Result<std::chrono::nanoseconds> since(const Event& earlier) const;

 private:
  explicit Event(std::shared_ptr<const Fate> fate) : fate_(std::move(fate)) {}
  Status fate() const { return fate_ == nullptr ? Status() : fate_->status(); }

  cudaEvent_t event_ = nullptr;
  const std::shared_ptr<const Fate> fate_;
};

/// Of an event that was made here.
Status make_stream_wait(cudaStream_t stream, const DeviceEvent& event);

}  // namespace kolo::core::cuda
