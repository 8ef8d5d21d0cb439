#pragma once

/// What LibTorch's releases, from 1.13 on, declare differently.

#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/variable.h>
#include <torch/types.h>
#include <torch/version.h>

#include <utility>

namespace kolo {

/// Owns a node of the autograd graph: std::shared_ptr up to LibTorch 2.11, c10::intrusive_ptr
/// in 2.15.
using NodePtr =
    decltype(torch::autograd::impl::grad_accumulator(std::declval<const torch::Tensor&>()));

/// Before LibTorch 2.0 an accumulator itself calls the tensor's hooks, once those of its own that
/// come before it were called, and whether it has any that come after it was looked up. Since then
/// the engine calls them first of all; also for gradients that autograd::grad() takes, which are
/// not stored.
constexpr bool kAccumulatorCallsTensorsHooks = TORCH_VERSION_MAJOR < 2;

}  // namespace kolo
