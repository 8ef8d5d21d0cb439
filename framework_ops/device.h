#pragma once

/// LibTorch's devices and streams as the core knows them. The build chooses the file that speaks to
/// CUDA (cuda_device.cc), or the one for builds without it (host_device.cc), where no CUDA tensor
/// gets any further than device_refusal().

#include <c10/core/Stream.h>
#include <torch/types.h>

#include <memory>
#include <string>
#include <vector>

#include "context/context.h"

namespace kolo::detail {

/// Why tensors of this device cannot take part, and what to do about it; empty when they can.
std::string device_refusal(const core::Context& context, torch::Device device);

/// Of a device whose tensors can take part.
core::DeviceType to_core(torch::Device device);

/// The stream into which LibTorch puts this thread's work for the device.
c10::Stream current_stream(torch::Device device);

/// A GPU's moment behind all that is in the stream. @throws kolo::Error.
std::shared_ptr<core::DeviceEvent> record_event(const c10::Stream& stream);

/// What is put into the stream from now on runs after the event. The host waits for nothing.
/// @throws kolo::Error.
void make_wait(const c10::Stream& stream, const core::DeviceEvent& event);

/// The streams that gradients were computed in, by several threads or in several streams.
class GpuStreams {
 public:
  /// Adds the current one of `device`, if that is a GPU.
  void add_current(torch::Device device);
  /// Makes the current one of `device` wait for all that the others of that device have been given.
  void join_current(torch::Device device) const;
  void clear() { streams_.clear(); }

 private:
  std::vector<c10::Stream> streams_;
};

}  // namespace kolo::detail
