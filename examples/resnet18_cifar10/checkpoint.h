#pragma once

#include <torch/nn/module.h>
#include <torch/optim/optimizer.h>

#include <filesystem>
#include <string>

#include "loss_scale.h"

namespace resnet_example {

/// Files DIR/checkpoint-0001.pt, … with all that a run needs to go on to the same numbers: model,
/// optimizer, number of epochs done, the loss's scale, the random number generators of every rank,
/// and the recipe.
///
/// Only rank 0 touches the folder, so on several hosts it need not be shared. What rank 0 writes
/// must therefore be true for all: the trainer averages BatchNorm's statistics before saving, and
/// broadcasts model and optimizer after loading.
class Checkpoints {
 public:
  /// An empty folder name turns checkpoints off. `recipe` is what a run must have in common with
  /// the checkpoint it goes on from. Fails, on all ranks, when nothing can be written in the
  /// folder. Collective.
  Checkpoints(std::filesystem::path folder, std::string recipe, torch::Device device);

  /// Fails, on all ranks, when the folder holds checkpoints: of which run would the next ones be?
  /// Collective.
  void require_empty_folder() const;

  /// Loads the newest checkpoint: model and optimizer on rank 0 only, the random number generators
  /// and the loss's scale on all ranks. Returns the number of epochs done, 0 when there is no
  /// checkpoint. Collective.
  int load(torch::nn::Module& model, torch::optim::Optimizer& optimizer,
           LossScale& loss_scale) const;

  /// Writes a checkpoint and removes all but the newest two. Collective.
  void save(int epochs_done, const torch::nn::Module& model,
            const torch::optim::Optimizer& optimizer, const LossScale& loss_scale) const;

 private:
  std::filesystem::path folder_;
  std::string recipe_;
  torch::Device device_;
};

}  // namespace resnet_example
