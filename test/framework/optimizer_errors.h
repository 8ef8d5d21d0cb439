#pragma once

/// A model, and training that must go right again after an error.

#include <memory>

#include "framework/training.h"

namespace kolo::testing {

class OptimizerErrorsTest : public FrameworkTest {
 protected:
  torch::Tensor loss(int step = 0) {
    return squared_error(net_->forward(input(step, 0, kolo::rank())), step, 0, kolo::rank());
  }

  /// From here on, training is what it is in one process, if all have the same parameters now.
  void expect_right_training(torch::optim::Optimizer& optimizer, bool same_parameters = true) {
    if (!same_parameters) kolo::broadcast_parameters(*net_, 0);
    Net oracle;
    torch::optim::SGD plain(oracle->parameters(), 0.1);
    {
      const torch::NoGradGuard no_grad;
      for (std::size_t i = 0; i < oracle->parameters().size(); ++i) {
        oracle->parameters()[i].copy_(net_->parameters()[i]);
      }
    }
    for (int step = 10; step < 13; ++step) {
      optimizer.zero_grad();
      loss(step).backward();
      optimizer.step();
      plain.zero_grad();
      for (int rank = 0; rank < kolo::size(); ++rank) {
        const auto part = squared_error(oracle->forward(input(step, 0, rank)), step, 0, rank);
        (part / kolo::size()).backward();
      }
      plain.step();
    }
    EXPECT_LT(relative_difference(flat_parameters(*net_), flat_parameters(*oracle)), 1e-10);
    EXPECT_TRUE(identical_on_all_ranks(flat_parameters(*net_)));
  }

  Net net_;
  /// Without momentum: without a memory.
  OptimizerPtr sgd_ = std::make_unique<torch::optim::SGD>(net_->parameters(), 0.1);
  const bool alone_ = kolo::size() == 1;
};

}  // namespace kolo::testing
