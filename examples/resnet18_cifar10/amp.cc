#include "amp.h"

#include <ATen/autocast_mode.h>
#include <torch/torch.h>
#include <torch/version.h>

#include <stdexcept>

namespace resnet_example {
namespace {

torch::ScalarType dtype_of(Amp amp) {
  switch (amp) {
    case Amp::Off:
      return torch::kFloat32;
    case Amp::BFloat16:
      return torch::kBFloat16;
    case Amp::Float16:
      return torch::kFloat16;
  }
  throw std::logic_error("not a value of Amp");
}

void set_autocast(torch::Device device, bool enabled, torch::ScalarType dtype) {
#if TORCH_VERSION_MAJOR >= 2
  at::autocast::set_autocast_dtype(device.type(), dtype);
  at::autocast::set_autocast_enabled(device.type(), enabled);
#else
  if (device.is_cuda()) {
    at::autocast::set_autocast_gpu_dtype(dtype);
    at::autocast::set_enabled(enabled);
  } else {
    at::autocast::set_autocast_cpu_dtype(dtype);
    at::autocast::set_cpu_enabled(enabled);
  }
#endif
}

}  // namespace

void require_fit(Amp amp, torch::Device device) {
  if (amp != Amp::Float16 || device.is_cuda()) return;
  throw UsageError(
      "--amp fp16 needs a GPU, and there is none: use --amp bf16, which works on CPUs, too");
}

Autocast::Autocast(Amp amp, torch::Device device) : on_(amp != Amp::Off), device_(device) {
  if (on_) set_autocast(device_, true, dtype_of(amp));
}

Autocast::~Autocast() {
  if (!on_) return;
  set_autocast(device_, false, torch::kBFloat16);
  // Of parameters in lower precision, which step() will change.
  at::autocast::clear_cache();
}

// No rank needs to ask the others: after backward() they hold the same bits, as averages, and an
// inf or a nan of any rank makes the average one. (A parameter that no rank had a gradient for
// would keep each rank's own, but these are of earlier averages.) So all take the step, or none
// does.
bool unscale_gradients(const std::vector<torch::Tensor>& parameters, double factor) {
  const torch::NoGradGuard no_grad;
  std::vector<torch::Tensor> gradients;
  for (const torch::Tensor& parameter : parameters) {
    if (parameter.grad().defined()) gradients.push_back(parameter.grad());
  }
  if (gradients.empty()) return true;
  at::_foreach_mul_(gradients, 1 / factor);
  // One value to wait for.
  const torch::Tensor norms = torch::stack(at::_foreach_norm(gradients));
  return torch::isfinite(norms).all().item<bool>();
}

}  // namespace resnet_example
