#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <kolo/error.h>
#include <torch/torch.h>

#include <utility>

#include "cuda/event.h"
#include "device.h"
#include "device_refusal.h"

namespace kolo::detail {
namespace {

void require(const core::Status& status) {
  if (!status.ok()) throw Error(status.message());
}

}  // namespace

std::string device_refusal(const core::Context& context, torch::Device device) {
  return device_refusal(context.gpu(), device);
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
