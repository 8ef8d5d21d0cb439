#pragma once

/// The tensors of a module, and what ranks compare of them.

#include <torch/nn/module.h>

#include <string>
#include <utility>
#include <vector>

namespace torch::jit {
struct Module;
}

namespace kolo::detail {

using NamedTensors = std::vector<std::pair<std::string, torch::Tensor>>;

/// Names begin with "parameter/" and "buffer/". One that stands in several places has the first
/// one's.
NamedTensors parameters_and_buffers(const torch::nn::Module& module);
NamedTensors parameters_and_buffers(const torch::jit::Module& module);
NamedTensors buffers(const torch::nn::Module& module);

/// Dtype and shape.
std::string describe(const torch::Tensor& tensor);
/// A line for each: name, dtype and shape.
std::vector<std::string> describe(const NamedTensors& tensors);

}  // namespace kolo::detail
