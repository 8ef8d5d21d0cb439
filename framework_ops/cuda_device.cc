#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <kolo/error.h>
#include <torch/torch.h>

#include <optional>
#include <utility>

#include "cuda/event.h"
#include "device.h"

namespace kolo::detail {
namespace {

void require(const core::Status& status) {
  if (!status.ok()) throw Error(status.message());
}

}  // namespace

std::string device_refusal(const core::Context& context, torch::Device device) {
  if (device.is_cpu()) return {};
  if (!device.is_cuda()) {
    return c10::str("the tensor is on device ", device,
                    ", but Kolo works on CPU and CUDA tensors: call cpu() first");
  }
  const core::Result<std::optional<int>>& gpu = context.gpu();
  if (!gpu.ok())
    return c10::str("the tensor is on device ", device, ", but ", gpu.status().message());
  if (!gpu.value()) {
    return c10::str("the tensor is on device ", device,
                    ", but this rank uses no GPU: call cpu() first");
  }
  if (device.index() == *gpu.value()) return {};
  return c10::str("the tensor is on device ", device, ", but this rank uses cuda:", *gpu.value(),
                  ": put its tensors on kolo::local_device()");
}

std::shared_ptr<core::DeviceEvent> record_event(const c10::Stream& stream) {
  const c10::cuda::CUDAGuard guard(stream.device());
  auto event = core::cuda::Event::record(c10::cuda::CUDAStream(stream).stream());
  require(event.status());
  return std::move(event).value();
}

void make_wait(const c10::Stream& stream, const core::DeviceEvent& event) {
  const c10::cuda::CUDAGuard guard(stream.device());
  require(core::cuda::make_stream_wait(c10::cuda::CUDAStream(stream).stream(), event));
}

}  // namespace kolo::detail
