#include "named_tensors.h"

#include <torch/csrc/jit/api/module.h>
#include <torch/torch.h>

#include <unordered_set>

namespace kolo::detail {
namespace {

/// Takes each tensor once; those that are undefined are told apart by their names.
class Collector {
 public:
  void add(std::string name, const torch::Tensor& tensor) {
    if (tensor.defined() && !seen_.insert(tensor.unsafeGetTensorImpl()).second) return;
    tensors_.emplace_back(std::move(name), tensor);
  }

  NamedTensors take() { return std::move(tensors_); }

 private:
  std::unordered_set<const void*> seen_;
  NamedTensors tensors_;
};

void add_buffers(Collector& collector, const torch::nn::Module& module) {
  for (const auto& item : module.named_buffers()) {
    collector.add("buffer/" + item.key(), item.value());
  }
}

}  // namespace

NamedTensors parameters_and_buffers(const torch::nn::Module& module) {
  Collector collector;
  for (const auto& item : module.named_parameters()) {
    collector.add("parameter/" + item.key(), item.value());
  }
  add_buffers(collector, module);
  return collector.take();
}

NamedTensors parameters_and_buffers(const torch::jit::Module& module) {
  Collector collector;
  for (const auto& item : module.named_parameters()) {
    collector.add("parameter/" + item.name, item.value);
  }
  for (const auto& item : module.named_buffers()) collector.add("buffer/" + item.name, item.value);
  return collector.take();
}

NamedTensors buffers(const torch::nn::Module& module) {
  Collector collector;
  add_buffers(collector, module);
  return collector.take();
}

std::string describe(const torch::Tensor& tensor) {
  return tensor.defined() ? c10::str(tensor.scalar_type(), " ", tensor.sizes()) : "undefined";
}

std::vector<std::string> describe(const NamedTensors& tensors) {
  std::vector<std::string> lines;
  for (const auto& [name, tensor] : tensors) {
    lines.push_back(c10::str("'", name, "' ", describe(tensor)));
  }
  return lines;
}

}  // namespace kolo::detail
