#pragma once

#include <kolo/kolo.h>
#include <torch/optim/sgd.h>

#include "amp.h"
#include "augment.h"
#include "checkpoint.h"
#include "dataset.h"
#include "history.h"
#include "loader.h"
#include "loss_scale.h"
#include "metrics.h"
#include "options.h"
#include "progress.h"
#include "resnet.h"
#include "staging.h"

namespace resnet_example {

/// Trains ResNet-18 on all ranks. Only the lines that name `kolo` tell it from a program for one
/// process.
class Trainer {
 public:
  /// `dataset` must outlive the trainer. Collective, as is run().
  Trainer(const Options& options, const Dataset& dataset);

  void run();

 private:
  struct Result {
    torch::Tensor output, loss;
  };

  int start();
  EpochRecord train_epoch(int epoch);
  Result forward(const torch::Tensor& images, const torch::Tensor& labels);
  void step_if_finite();
  void evaluate(EpochRecord& record);
  void announce(int first_epoch);
  void show(StepStatus status, const Metrics& metrics, double seconds, std::int64_t steps_after);

  const Options options_;
  const Dataset& dataset_;
  const Normalizer normalizer_;
  /// The images that are left over, fewer than there are ranks, sit the epoch out: all make the
  /// same steps.
  kolo::DistributedSampler train_sampler_;
  kolo::DistributedSampler test_sampler_;
  const std::int64_t steps_per_epoch_;
  const torch::Device device_;
  Staging staging_;

  ResNet18 model_;
  torch::optim::SGD sgd_;
  LossScale loss_scale_;
  Checkpoints checkpoints_;
  const int first_epoch_;
  kolo::DistributedOptimizer optimizer_;
  Progress progress_;
};

}  // namespace resnet_example
