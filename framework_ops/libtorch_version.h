#pragma once

/// What LibTorch's releases, from 1.13 on, declare differently.

#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/variable.h>
#include <torch/types.h>

#include <utility>

namespace kolo {

/// Owns a node of the autograd graph: std::shared_ptr up to LibTorch 2.11, c10::intrusive_ptr
/// in 2.15.
using NodePtr =
    decltype(torch::autograd::impl::grad_accumulator(std::declval<const torch::Tensor&>()));

}  // namespace kolo
