#pragma once

/// One training loop twice: with Kolo on this rank's data, and in one process on all ranks' data.

#include <functional>
#include <memory>
#include <vector>

#include "framework/support.h"

namespace kolo::testing {

/// Layers that a loop may put together as it likes.
struct NetImpl : torch::nn::Module {
  NetImpl();

  /// c(tanh(b(tanh(a(x))))).
  torch::Tensor forward(const torch::Tensor& x);

  torch::nn::Linear a{nullptr}, b{nullptr}, c{nullptr}, spare{nullptr};
};
TORCH_MODULE(Net);

using OptimizerPtr = std::unique_ptr<torch::optim::Optimizer>;
using MakeOptimizer = std::function<OptimizerPtr(std::vector<torch::Tensor>)>;

MakeOptimizer sgd();
MakeOptimizer adam();
MakeOptimizer adamw();

/// This rank's input for forward(), and what should come out.
torch::Tensor input(int step, int pass, int rank);
torch::Tensor squared_error(const torch::Tensor& output, int step, int pass, int rank);

/// A model under training, with Kolo or without.
class Training {
 public:
  /// Gives the modules that have an optimizer each, in order.
  using Parts = std::function<std::vector<std::shared_ptr<torch::nn::Module>>(Net&)>;

  Training(bool with_kolo, const MakeOptimizer& make, const DistributedOptimizerOptions& options,
           const Parts& parts);

  /// With Kolo the loss of this rank, otherwise the mean of all ranks'.
  torch::Tensor mean(const std::function<torch::Tensor(int rank)>& loss) const;

  /// The mean squared error of the whole net.
  torch::Tensor loss(int step, int pass = 0);

  /// What the loop takes for its optimizer.
  torch::optim::Optimizer& optimizer(std::size_t part = 0);

  /// Runs `body` under no_sync(), if there is something to guard.
  void without_sync(const std::function<void()>& body);

  bool with_kolo() const { return !wrappers_.empty(); }

  Net net;

 private:
  std::vector<OptimizerPtr> inner_;
  std::vector<std::unique_ptr<DistributedOptimizer>> wrappers_;
};

/// A loop, and what it begins with.
struct Loop {
  std::function<void(Training& run, int step)> body;
  MakeOptimizer optimizer = sgd();
  DistributedOptimizerOptions options = {};
  Training::Parts parts = [](Net& net) {
    return std::vector<std::shared_ptr<torch::nn::Module>>{net.ptr()};
  };
  int steps = 20;
};

/// All parameters of a module, one behind the other.
torch::Tensor flat_parameters(const torch::nn::Module& module);

/// Between modules of one kind.
void copy_parameters(const torch::nn::Module& from, torch::nn::Module& to);

/// Runs the loop with Kolo twice and without it once. All ranks have the same bits after each step,
/// the runs with Kolo end with the same bits, and all with the same numbers; gradients that are
/// undefined in one process are undefined on all ranks.
void expect_as_in_one_process(const Loop& loop);

}  // namespace kolo::testing
