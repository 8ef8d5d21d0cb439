#pragma once

/// Queues of a GPU's work, and which GPU a thread speaks to.

#include <cuda_runtime_api.h>

#include "base/status.h"

namespace kolo::core::cuda {

/// Makes a GPU the current one of this thread, until its end. A GPU that was current before, but on which
/// this process has nothing, is left alone: to make it current again would take memory there, which all
/// ranks of a host would take on its first GPU.
class DeviceGuard {
 public:
  explicit DeviceGuard(int device);
  ~DeviceGuard();
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

  /// Whether it is.
  const Status& status() const { return status_; }

 private:
  const int device_;
  int before_;
  Status status_;
};

/// Owns a stream.
class Stream {
 public:
  /// Of the current GPU, before other streams where both have work, and waiting for none.
  static Result<Stream> create_urgent();

  Stream(Stream&& other) noexcept;
  Stream& operator=(Stream&& other) noexcept;
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  ~Stream();

  cudaStream_t get() const { return stream_; }

 private:
  explicit Stream(cudaStream_t stream) : stream_(stream) {}

  cudaStream_t stream_ = nullptr;
};

}  // namespace kolo::core::cuda
