#pragma once

/// Kolo and those it is compared with, behind one interface. A translation unit each.

#include <torch/optim/optimizer.h>
#include <torch/types.h>

#include <functional>
#include <memory>
#include <vector>

#include "bench/options.h"
#include "bench/ranks.h"

namespace kolo::bench {

/// All have settled when so many steps are done, Kolo last.
constexpr int kStepsToSettle = 5;

/// One model in the hands of a reducer, or of nobody.
class Training {
 public:
  explicit Training(torch::optim::Optimizer& optimizer) : optimizer_(optimizer) {}
  virtual ~Training() = default;
  Training(const Training&) = delete;
  Training& operator=(const Training&) = delete;

  /// One step, forward, backward and optimizer; `forward` gives the loss.
  void run(const std::function<torch::Tensor()>& forward);

 private:
  virtual void before_forward() {}
  virtual void before_backward() {}
  /// Gradients are averages when it returns.
  virtual void after_backward() {}
  virtual void step() { optimizer_.step(); }

  torch::optim::Optimizer& optimizer_;
};

class Reducer {
 public:
  Reducer() = default;
  virtual ~Reducer() = default;
  Reducer(const Reducer&) = delete;
  Reducer& operator=(const Reducer&) = delete;

  /// Sums over all ranks, in place, and waits for it.
  virtual void allreduce(torch::Tensor& tensor) = 0;

  /// `parameters` are the optimizer's. Both outlive the training.
  virtual std::unique_ptr<Training> train(const std::vector<torch::Tensor>& parameters,
                                          torch::optim::Optimizer& optimizer) = 0;
};

/// Without a reducer, each rank trains for itself.
std::unique_ptr<Training> make_training(Reducer* reducer,
                                        const std::vector<torch::Tensor>& parameters,
                                        torch::optim::Optimizer& optimizer);

/// Collective. The ranks outlive the reducer.
std::unique_ptr<Reducer> make_reducer(Contender contender, const Ranks& ranks);

std::unique_ptr<Reducer> make_kolo_reducer();
/// `chunk`: the most bytes of a call; 0: no limit.
std::unique_ptr<Reducer> make_mpi_reducer(const Ranks& ranks, std::size_t chunk);
std::unique_ptr<Reducer> make_ddp_reducer(const Ranks& ranks, bool gradient_as_bucket_view);

/// What to do to have ddp in this build; null when it is there.
const char* why_no_ddp();

}  // namespace kolo::bench
