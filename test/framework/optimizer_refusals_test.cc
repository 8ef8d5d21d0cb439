// Optimizers that cannot be wrapped, on all ranks or on one.

#include "framework/optimizer_errors.h"

namespace kolo::testing {
namespace {

using Names = torch::OrderedDict<std::string, torch::Tensor>;

TEST_F(OptimizerErrorsTest, AParameterWithoutAName) {
  expect_error([&] { DistributedOptimizer(*sgd_, net_->a->named_parameters()); },
               {"has no name", "group 0", "[7, 7]", "named_parameters()"});
  DistributedOptimizer optimizer(*sgd_, net_->named_parameters());
  expect_right_training(optimizer);
}

TEST_F(OptimizerErrorsTest, AParameterOfTwoOptimizers) {
  {
    DistributedOptimizer first(*sgd_, net_->named_parameters());
    const OptimizerPtr other = sgd()(net_->b->parameters());
    expect_error([&] { DistributedOptimizer(*other, net_->named_parameters()); },
                 {"'b.weight'", "already belongs to another DistributedOptimizer",
                  "destroy the other one first", "call reset() before"});
    expect_right_training(first);
  }
  sgd_ = std::make_unique<torch::optim::SGD>(net_->parameters(), 0.1);
  DistributedOptimizer after(*sgd_, net_->named_parameters());
  expect_right_training(after);
}

TEST_F(OptimizerErrorsTest, AParameterWithoutANameOnOneRank) {
  if (alone_) return;
  Names names;
  for (const auto& item : net_->named_parameters()) {
    if (kolo::rank() != 1 || item.key() != "b.bias") names.insert(item.key(), item.value());
  }
  expect_error([&] { DistributedOptimizer(*sgd_, names); },
               {"on rank 1", "has no name", "group 0", "[7]", "named_parameters()"});
  DistributedOptimizer optimizer(*sgd_, net_->named_parameters());
  expect_right_training(optimizer);
}

TEST_F(OptimizerErrorsTest, OtherNamesOnARank) {
  if (alone_) return;
  const bool odd = kolo::rank() == kolo::size() - 1;
  Names names;
  for (const auto& item : net_->named_parameters()) {
    names.insert(odd && item.key() == "b.weight" ? "body" : item.key(), item.value());
  }
  expect_error([&] { DistributedOptimizer(*sgd_, names); },
               {"'b.weight'", "'body'", "rank 0", "rank " + std::to_string(kolo::size() - 1)});
  DistributedOptimizer optimizer(*sgd_, net_->named_parameters());
  expect_right_training(optimizer);
}

TEST_F(OptimizerErrorsTest, OtherShapesOnARank) {
  if (alone_) return;
  torch::nn::Linear layer(5, kolo::rank() == 1 ? 3 : 2);
  torch::optim::SGD inner(layer->parameters(), 0.1);
  expect_error([&] { DistributedOptimizer(inner, layer->named_parameters()); },
               {"'weight'", "[2, 5] on rank 0", "[3, 5] on rank 1"});
  expect_usable();
}

TEST_F(OptimizerErrorsTest, OtherDtypesOnARank) {
  if (alone_) return;
  torch::nn::Linear layer(5, 2);
  layer->to(kolo::rank() == 1 ? torch::kFloat64 : torch::kFloat32);
  torch::optim::SGD inner(layer->parameters(), 0.1);
  expect_error([&] { DistributedOptimizer(inner, layer->named_parameters()); },
               {"'weight'", "Float [2, 5] on rank 0", "Double [2, 5] on rank 1"});
}

TEST_F(OptimizerErrorsTest, DtypesWithoutGradients) {
  for (const auto& [dtype, name] :
       {std::pair(torch::kInt64, "Long"), std::pair(torch::kBool, "Bool")}) {
    // On all ranks, and on the last one only.
    for (const int first : {0, last_rank()}) {
      Names names;
      names.insert("count",
                   torch::ones({1}, there(kolo::rank() < first ? torch::kFloat32 : dtype)));
      torch::optim::SGD inner({names["count"]}, 0.1);
      expect_error([&] { DistributedOptimizer(inner, names); },
                   {c10::str("on rank ", first, ": parameter 'count' is ", name),
                    "has no gradient: make it a buffer"});
    }
  }
  DistributedOptimizer optimizer(*sgd_, net_->named_parameters());
  expect_right_training(optimizer);
}

TEST_F(OptimizerErrorsTest, AnotherLayoutOnARank) {
  if (alone_) return;
  torch::nn::Conv2d layer(torch::nn::Conv2dOptions(2, 3, 5));
  if (kolo::rank() == 1) {
    layer->weight.set_data(layer->weight.contiguous(torch::MemoryFormat::ChannelsLast));
  }
  torch::optim::SGD inner(layer->parameters(), 0.1);
  expect_error([&] { DistributedOptimizer(inner, layer->named_parameters()); },
               {"'weight'", "Float [3, 2, 5, 5] on rank 0", "with strides", "on rank 1"});
}

TEST_F(OptimizerErrorsTest, NoMemoryForGradientsOnARank) {
  if (alone_) return;
  constexpr std::int64_t kTooMany = std::int64_t{1} << 50;
  // The parameter itself needs none.
  Names names;
  names.insert(
      "huge",
      torch::zeros({1}, there()).expand({kolo::rank() == 1 ? kTooMany : 1}).requires_grad_());
  torch::optim::SGD inner({names["huge"]}, 0.1);
  expect_error([&] { DistributedOptimizer(inner, names); },
               {"on rank 1: ", "not enough memory for gradients: ",
                there().device().is_cuda() ? "ncclMemAlloc of" : "are wanted, but ",
                std::to_string(kTooMany * 4) + " bytes"});
  DistributedOptimizer optimizer(*sgd_, net_->named_parameters());
  expect_right_training(optimizer);
}

TEST_F(OptimizerErrorsTest, FewerParametersOnARank) {
  if (alone_) return;
  torch::nn::Linear layer(torch::nn::LinearOptions(5, 2).bias(kolo::rank() != 0));
  torch::optim::SGD inner(layer->parameters(), 0.1);
  expect_error([&] { DistributedOptimizer(inner, layer->named_parameters()); },
               {"nothing on rank 0", "'bias'", "on rank 1"});
}

TEST_F(OptimizerErrorsTest, OtherOptionsOnARank) {
  if (alone_) return;
  DistributedOptimizerOptions options;
  options.backward_passes_per_step = kolo::rank() == 1 ? 4 : 2;
  expect_error([&] { DistributedOptimizer(*sgd_, net_->named_parameters(), options); },
               {"backward_passes_per_step 2 on rank 0", "backward_passes_per_step 4 on rank 1"});
}

TEST_F(OptimizerErrorsTest, NoPassesPerStep) {
  DistributedOptimizerOptions options;
  options.backward_passes_per_step = 0;
  expect_error([&] { DistributedOptimizer(*sgd_, net_->named_parameters(), options); },
               {"backward_passes_per_step must be at least 1, not 0"});
  DistributedOptimizer optimizer(*sgd_, net_->named_parameters());
  expect_right_training(optimizer);
}

}  // namespace
}  // namespace kolo::testing
