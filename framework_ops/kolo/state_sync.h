#pragma once

/// Makes all ranks start from the same numbers.

#include <torch/nn/module.h>
#include <torch/optim/optimizer.h>

namespace kolo {

/// Overwrites every rank's parameters and buffers with those of `root_rank`. Collective.
/// @throws kolo::Error on every rank when the modules differ.
void broadcast_parameters(torch::nn::Module& module, int root_rank);

/// Overwrites every rank's optimizer state (momentum buffers, moments, step counts) and options (such
/// as the learning rate) with those of `root_rank`, whether the state is fresh, or was loaded from a
/// checkpoint on the root only. SGD, Adam, AdamW, RMSprop and Adagrad, also inside a
/// DistributedOptimizer. Collective.
/// @throws kolo::Error for other optimizers, and on every rank when the parameter groups differ.
void broadcast_optimizer_state(torch::optim::Optimizer& optimizer, int root_rank);

}  // namespace kolo
