#include <kolo/distributed_optimizer.h>
#include <kolo/ops.h>

#include <string>

#include "bench/reducers.h"

namespace kolo::bench {
namespace {

class KoloTraining : public Training {
 public:
  KoloTraining(const std::vector<torch::Tensor>& parameters, torch::optim::Optimizer& optimizer)
      : Training(optimizer), distributed_(optimizer, named(parameters)) {}

 private:
  void step() override { distributed_.step(); }

  static torch::OrderedDict<std::string, torch::Tensor> named(
      const std::vector<torch::Tensor>& parameters) {
    torch::OrderedDict<std::string, torch::Tensor> names;
    for (std::size_t i = 0; i < parameters.size(); ++i) {
      names.insert("parameter" + std::to_string(i), parameters[i]);
    }
    return names;
  }

  kolo::DistributedOptimizer distributed_;
};

class KoloReducer : public Reducer {
 public:
  void allreduce(torch::Tensor& tensor) override {
    kolo::allreduce_(tensor, {.name = "bench", .op = kolo::ReduceOp::Sum});
  }

  std::unique_ptr<Training> train(const std::vector<torch::Tensor>& parameters,
                                  torch::optim::Optimizer& optimizer) override {
    return std::make_unique<KoloTraining>(parameters, optimizer);
  }
};

}  // namespace

std::unique_ptr<Reducer> make_kolo_reducer() { return std::make_unique<KoloReducer>(); }

}  // namespace kolo::bench
