#include <kolo/error.h>
#include <torch/torch.h>

#include "device.h"

namespace kolo::detail {

std::string device_refusal(const core::Context& /*context*/, torch::Device device) {
  if (device.is_cpu()) return {};
  return c10::str("the tensor is on device ", device,
                  ", but this build of Kolo works on CPU tensors: call cpu() first");
}

std::shared_ptr<core::DeviceEvent> record_event(const c10::Stream& /*stream*/) {
  throw Error("this build of Kolo knows no GPU");
}

void make_wait(const c10::Stream& /*stream*/, const core::DeviceEvent& /*event*/) {
  throw Error("this build of Kolo knows no GPU");
}

}  // namespace kolo::detail
