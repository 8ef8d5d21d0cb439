#include "device_refusal.h"

#include <c10/util/StringUtil.h>

namespace kolo::detail {

std::string device_refusal(const core::Result<std::optional<int>>& gpu, c10::Device device) {
  if (device.is_cpu()) return {};
  const std::string but = c10::str("the tensor is on device ", device, ", but ");
  if (!device.is_cuda()) return but + "Kolo works on CPU and CUDA tensors: call cpu() first";
  if (!gpu.ok()) return but + gpu.status().message();
  if (!gpu.value()) return but + "this rank uses no GPU: call cpu() first";
  if (device.index() == *gpu.value()) return {};
  return c10::str(but, "this rank uses cuda:", *gpu.value(),
                  ": put its tensors on kolo::local_device()");
}

}  // namespace kolo::detail
