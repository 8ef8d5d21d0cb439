#pragma once

/// A model that computes nothing, but has gradients like a real one: they become ready one after
/// another, from the last parameter to the first, in autograd's own accumulation nodes.

#include <torch/optim/sgd.h>
#include <torch/types.h>

#include <vector>

#include "bench/options.h"

namespace kolo::bench {

/// What this rank's backward finds, and what the parameters are: each model's are views of the
/// same.
class SyntheticData {
 public:
  /// Gradients are `ranks` times the contributions of check.h, so that means are exact.
  SyntheticData(const std::vector<Shape>& shapes, int rank, int ranks);

  /// Multiplies the gradients, also of models that have begun.
  void scale(double factor);

  const std::vector<torch::Tensor>& gradients() const { return gradients_; }
  const std::vector<torch::Tensor>& values() const { return values_; }
  /// Of the gradients.
  std::size_t bytes() const;

 private:
  std::vector<torch::Tensor> gradients_;
  std::vector<torch::Tensor> values_;
};

class SyntheticModel {
 public:
  /// `times` are spread evenly over the layers, of which each parameter is one.
  SyntheticModel(const SyntheticData& data, const ComputeTimes& times, Compute compute);

  const std::vector<torch::Tensor>& parameters() const { return parameters_; }

  /// The loss: its backward() adds to the gradients.
  torch::Tensor forward();

  void zero_grad(ZeroGrad how);

 private:
  const SyntheticData& data_;
  const ComputeTimes times_;
  Compute compute_;
  std::vector<torch::Tensor> parameters_;
};

/// Takes its time, and leaves the parameters as they are.
class SyntheticOptimizer : public torch::optim::SGD {
 public:
  SyntheticOptimizer(const SyntheticModel& model, const ComputeTimes& times, Compute compute);

  torch::Tensor step(LossClosure closure = nullptr) override;

 private:
  const Seconds time_;
  Compute compute_;
};

}  // namespace kolo::bench
