#pragma once

/// Makes all ranks hold the same numbers.

#include <kolo/process_set.h>
#include <torch/nn/module.h>
#include <torch/optim/optimizer.h>

#include <vector>

namespace torch::jit {
struct Module;
}

namespace kolo {

/// Overwrites every rank's parameters and buffers with those of `root_rank`, a global rank of the
/// set; complex ones, too. Collective.
/// @throws kolo::Error on every rank when the modules differ.
void broadcast_parameters(torch::nn::Module& module, int root_rank,
                          const ProcessSet& process_set = {});
/// Of a TorchScript module.
void broadcast_parameters(torch::jit::Module& module, int root_rank,
                          const ProcessSet& process_set = {});
/// Any tensors, in the same order on all ranks. They are named "tensor/0", … in messages.
void broadcast_parameters(const std::vector<torch::Tensor>& tensors, int root_rank,
                          const ProcessSet& process_set = {});

/// Overwrites every rank's optimizer state (momentum buffers, moments, step counts) and options
/// (such as the learning rate) with those of `root_rank`, a global rank of the set, whether the
/// state is fresh, or was loaded from a checkpoint on the root only. SGD, Adam, AdamW, RMSprop and
/// Adagrad, also inside a DistributedOptimizer. Collective.
/// @throws kolo::Error for other optimizers, and on every rank when the parameter groups differ.
void broadcast_optimizer_state(torch::optim::Optimizer& optimizer, int root_rank,
                               const ProcessSet& process_set = {});

/// Averages the module's buffers over the ranks. Batch norm's statistics are of each rank's own
/// batches: call it before the model is tested or saved, so that this does not depend on the rank.
/// Running variances become the mean of the ranks' variances. Collective.
///
/// Of integers without dimensions (numbers of batches) all ranks get the largest. Other buffers
/// that are not floating or complex must be the same on all ranks.
/// @throws kolo::Error on every rank when they are not, or when the modules differ.
void average_buffers(torch::nn::Module& module, const ProcessSet& process_set = {});

}  // namespace kolo
