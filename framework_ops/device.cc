#include "device.h"

#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/torch.h>

#include <algorithm>

namespace kolo::detail {

core::DeviceType to_core(torch::Device device) {
  return device.is_cuda() ? core::DeviceType::Cuda : core::DeviceType::Cpu;
}

c10::Stream current_stream(torch::Device device) {
  return c10::impl::getDeviceGuardImpl(device.type())->getStream(device);
}

void GpuStreams::add_current(torch::Device device) {
  if (!device.is_cuda()) return;
  const c10::Stream current = current_stream(device);
  if (std::ranges::find(streams_, current) == streams_.end()) streams_.push_back(current);
}

void GpuStreams::join_current(torch::Device device) const {
  if (!device.is_cuda()) return;
  const c10::Stream current = current_stream(device);
  for (const c10::Stream& stream : streams_) {
    if (stream.device() != device || stream == current) continue;
    make_wait(current, *record_event(stream));
  }
}

}  // namespace kolo::detail
