#include "framework/training.h"

#include <utility>

namespace kolo::testing {
namespace {

/// Of sums in another order, in float64.
constexpr double kRounding = 1e-10;

struct TrainedNet {
  torch::Tensor parameters;
  /// After each step, by parameter.
  std::vector<std::vector<bool>> has_gradient;
};

TrainedNet train(const Loop& loop, bool with_kolo) {
  torch::manual_seed(3);
  Training run(with_kolo, loop.optimizer, loop.options, loop.parts);
  TrainedNet trained;
  for (int step = 0; step < loop.steps; ++step) {
    loop.body(run, step);
    std::vector<bool>& has_gradient = trained.has_gradient.emplace_back();
    for (const torch::Tensor& parameter : run.net->parameters()) {
      has_gradient.push_back(parameter.grad().defined());
    }
    if (with_kolo) {
      EXPECT_TRUE(identical_on_all_ranks(flat_parameters(*run.net))) << "after step " << step;
    }
  }
  trained.parameters = flat_parameters(*run.net);
  return trained;
}

}  // namespace

NetImpl::NetImpl() {
  a = register_module("a", torch::nn::Linear(5, 7));
  b = register_module("b", torch::nn::Linear(7, 7));
  c = register_module("c", torch::nn::Linear(7, 3));
  spare = register_module("spare", torch::nn::Linear(7, 7));
  to(device(), torch::kFloat64);
}

torch::Tensor NetImpl::forward(const torch::Tensor& x) {
  return c(torch::tanh(b(torch::tanh(a(x)))));
}

MakeOptimizer sgd() {
  return [](std::vector<torch::Tensor> parameters) -> OptimizerPtr {
    return std::make_unique<torch::optim::SGD>(
        std::move(parameters), torch::optim::SGDOptions(0.1).momentum(0.9).weight_decay(0.01));
  };
}

MakeOptimizer adam() {
  return [](std::vector<torch::Tensor> parameters) -> OptimizerPtr {
    return std::make_unique<torch::optim::Adam>(std::move(parameters),
                                                torch::optim::AdamOptions(0.01).weight_decay(0.01));
  };
}

MakeOptimizer adamw() {
  return [](std::vector<torch::Tensor> parameters) -> OptimizerPtr {
    return std::make_unique<torch::optim::AdamW>(std::move(parameters),
                                                 torch::optim::AdamWOptions(0.01));
  };
}

torch::Tensor input(int step, int pass, int rank) { return random({4, 5}, {step, pass, rank}); }

torch::Tensor squared_error(const torch::Tensor& output, int step, int pass, int rank) {
  return torch::mse_loss(output, random({4, 3}, {step, pass, rank, 1}));
}

Training::Training(bool with_kolo, const MakeOptimizer& make,
                   const DistributedOptimizerOptions& options, const Parts& parts) {
  for (const auto& part : parts(net)) {
    inner_.push_back(make(part->parameters()));
    if (with_kolo) {
      wrappers_.push_back(std::make_unique<DistributedOptimizer>(
          *inner_.back(), part->named_parameters(), options));
    }
  }
}

torch::Tensor Training::mean(const std::function<torch::Tensor(int rank)>& loss) const {
  if (with_kolo()) return loss(kolo::rank());
  torch::Tensor sum = loss(0);
  for (int rank = 1; rank < kolo::size(); ++rank) sum = sum + loss(rank);
  return sum / kolo::size();
}

torch::Tensor Training::loss(int step, int pass) {
  return mean([&](int rank) {
    return squared_error(net->forward(input(step, pass, rank)), step, pass, rank);
  });
}

torch::optim::Optimizer& Training::optimizer(std::size_t part) {
  if (with_kolo()) return *wrappers_.at(part);
  return *inner_.at(part);
}

void Training::without_sync(const std::function<void()>& body) {
  if (!with_kolo()) return body();
  const auto guard = wrappers_.front()->no_sync();
  body();
}

torch::Tensor flat_parameters(const torch::nn::Module& module) {
  std::vector<torch::Tensor> flat;
  for (const torch::Tensor& parameter : module.parameters()) {
    flat.push_back(parameter.detach().reshape({-1}));
  }
  return torch::cat(flat);
}

void copy_parameters(const torch::nn::Module& from, torch::nn::Module& to) {
  const torch::NoGradGuard no_grad;
  const std::vector<torch::Tensor> source = from.parameters();
  const std::vector<torch::Tensor> target = to.parameters();
  for (std::size_t i = 0; i < source.size(); ++i) target[i].copy_(source[i]);
}

void expect_as_in_one_process(const Loop& loop) {
  const TrainedNet first = train(loop, true);
  const TrainedNet second = train(loop, true);
  EXPECT_TRUE(identical(first.parameters, second.parameters)) << "two runs differ";
  const TrainedNet oracle = train(loop, false);
  EXPECT_LT(relative_difference(first.parameters, oracle.parameters), kRounding);
  EXPECT_EQ(first.has_gradient, oracle.has_gradient);
}

}  // namespace kolo::testing
