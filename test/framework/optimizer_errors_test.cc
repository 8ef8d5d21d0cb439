// What DistributedOptimizer refuses, and what becomes of training when one rank fails.

#include <stdexcept>

#include "framework/training.h"

namespace kolo::testing {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using Names = torch::OrderedDict<std::string, torch::Tensor>;

/// The identity, whose backward fails.
struct Bomb : torch::autograd::Function<Bomb> {
  static torch::Tensor forward(AutogradContext* /*context*/, const torch::Tensor& x) {
    return x.clone();
  }

  static variable_list backward(AutogradContext* /*context*/, const variable_list& /*gradients*/) {
    throw std::runtime_error("the bomb goes off");
  }
};

/// Calls backward on a graph that shares a parameter with the outer one.
struct InnerBackward : torch::autograd::Function<InnerBackward> {
  static torch::Tensor forward(AutogradContext* context, const torch::Tensor& x,
                               const torch::Tensor& parameter) {
    context->saved_data["parameter"] = parameter;
    return x.clone();
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const torch::AutoGradMode enable(true);
    context->saved_data["parameter"].toTensor().pow(2).sum().backward();
    return {gradients[0], torch::Tensor()};
  }
};

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
    if (!alone_) {
      expect_error([&] { DistributedOptimizer(*other, net_->named_parameters()); },
                   {"'b.weight'", "already belongs to another DistributedOptimizer"});
    }
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
                there().device().is_cuda() ? "ncclMemAlloc of" : "no memory for",
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

TEST_F(OptimizerErrorsTest, ParametersThatWereAddedLater) {
  DistributedOptimizer optimizer(*sgd_, net_->named_parameters());
  optimizer.step();
  const torch::Tensor more = torch::zeros({2}).requires_grad_();
  sgd_->add_param_group(torch::optim::OptimizerParamGroup({more}));
  expect_error([&] { optimizer.step(); }, {"added to an optimizer", "wrap it anew"});
}

TEST_F(OptimizerErrorsTest, ParametersThatWereAddedLaterOnOneRank) {
  if (alone_) return;
  DistributedOptimizer optimizer(*sgd_, net_->named_parameters());
  loss().backward();
  if (kolo::rank() == 0) {
    const torch::Tensor more = torch::zeros({2}).requires_grad_();
    sgd_->add_param_group(torch::optim::OptimizerParamGroup({more}));
    expect_error([&] { optimizer.step(); }, {"added to an optimizer", "wrap it anew"});
  } else {
    optimizer.step();
    expect_error([&] { loss().backward(); }, {"exception on rank 0"});
  }
  expect_usable();
}

TEST_F(OptimizerErrorsTest, AnotherShapeOnOneRankLater) {
  if (alone_) return;
  DistributedOptimizer optimizer(*sgd_, net_->named_parameters());
  expect_right_training(optimizer);
  const torch::Tensor before = flat_parameters(*net_);
  if (kolo::rank() == 1) {
    net_->c->bias.mutable_grad() = torch::ones({5}, there(torch::kFloat64));
    net_->b->bias.mutable_grad().reset();
    expect_error([&] { (net_->b->bias * 2).sum().backward(); },
                 {"'optimizer", "c.bias' on rank 1", "shape"});
  } else {
    expect_error([&] { loss().backward(); }, {"c.bias' on rank 1", "shape"});
  }
  EXPECT_TRUE(identical(flat_parameters(*net_), before));
}

TEST_F(OptimizerErrorsTest, ParametersThatWereConvertedLater) {
  if (alone_) return;
  DistributedOptimizer optimizer(*sgd_, net_->named_parameters());
  expect_right_training(optimizer);
  net_->to(torch::kFloat32);
  const auto forward = [&] { return net_->forward(input(0, 0, 0).to(torch::kFloat32)); };
  expect_error(
      [&] {
        forward().sum().backward();
        optimizer.step();
      },
      {"a.weight' was converted", "call to() first"});
  expect_usable();
}

TEST_F(OptimizerErrorsTest, SparseGradients) {
  if (alone_) return;
  torch::nn::Embedding table(torch::nn::EmbeddingOptions(10, 3).sparse(true));
  table->to(device());
  torch::optim::SGD inner(table->parameters(), 0.1);
  DistributedOptimizer optimizer(inner, table->named_parameters());
  expect_error(
      [&] {
        table->forward(torch::tensor({1, 2}, there(torch::kInt64))).sum().backward();
      },
      {"weight'", "rank 0", "sparse", "to_dense()"});
  DistributedOptimizer dense(*sgd_, net_->named_parameters());
  expect_right_training(dense);
}

TEST_F(OptimizerErrorsTest, SumOfGradientsThatWereNotZeroed) {
  if (alone_) return;
  DistributedOptimizer optimizer(*sgd_, net_->named_parameters(), {.op = ReduceOp::Sum});
  for (int step = 0; step < 2; ++step) {
    optimizer.zero_grad();
    loss().backward();
    // The first gradient of the second backward.
    expect_error([&] { loss().backward(); },
                 {"c.", "second backward", "Sum", "zero_grad()", "no_sync()"});
  }
  optimizer.zero_grad();
  loss().backward();
  const auto own = torch::autograd::grad({loss()}, {net_->c->bias})[0];
  EXPECT_LT(relative_difference(net_->c->bias.grad(), torch::stack(gather(own)).sum(0)), 1e-12);
}

TEST_F(OptimizerErrorsTest, SumOfAGradientThatIsOnTheWire) {
  if (alone_) return;
  // Its group is complete when the inner backward begins.
  const OptimizerPtr of_c = sgd()(net_->c->parameters());
  DistributedOptimizer optimizer(*of_c, net_->c->named_parameters(), {.op = ReduceOp::Sum});
  const torch::Tensor hidden = net_->b(net_->a(input(0, 0, 0)));
  const torch::Tensor again = InnerBackward::apply(hidden, net_->c->weight);
  expect_error([&] { net_->c(again).sum().backward(); },
               {"weight'", "second backward", "Sum", "right only with Average"});
  expect_usable();
}

TEST_F(OptimizerErrorsTest, MoreBackwardPassesOnOneRank) {
  if (alone_) return;
  DistributedOptimizer optimizer(*sgd_, net_->named_parameters());
  loss().backward();
  if (kolo::rank() != 0) optimizer.step();
  expect_error([&] { loss().backward(); },
               {"different numbers of backward passes", "rank 0", "for time 2 in step 0", "rank 1",
                "for time 1 in step 1"});
  // All count as the one that is ahead.
  expect_right_training(optimizer, /*same_parameters=*/false);
}

TEST_F(OptimizerErrorsTest, StepTwiceOnOneRank) {
  if (alone_) return;
  DistributedOptimizer optimizer(*sgd_, net_->named_parameters());
  loss().backward();
  optimizer.step();
  const torch::Tensor before = flat_parameters(*net_);
  const std::vector<std::string> parts = {"rank 1 calls step() without a backward()", "zero_grad()"};
  if (kolo::rank() == 1) {
    expect_error([&] { optimizer.step(); }, parts);
  } else {
    optimizer.zero_grad();
    expect_error([&] { loss().backward(); }, parts);
  }
  EXPECT_TRUE(identical(flat_parameters(*net_), before));
  expect_right_training(optimizer);
}

// Nobody has a new gradient, and each would step with what it holds.
TEST_F(OptimizerErrorsTest, StepTwiceOnOneRankWhileOthersStepWithoutABackward) {
  if (alone_) return;
  DistributedOptimizer optimizer(*sgd_, net_->named_parameters());
  loss().backward();
  optimizer.step();
  const torch::Tensor before = flat_parameters(*net_);
  if (kolo::rank() != 1) optimizer.zero_grad();
  expect_error([&] { optimizer.step(); }, {"rank 1 calls step() without a backward()",
                                           "other ranks have none", "zero_grad()"});
  EXPECT_TRUE(identical(flat_parameters(*net_), before));
  expect_right_training(optimizer);
}

TEST_F(OptimizerErrorsTest, StepTwiceOnAllRanks) {
  DistributedOptimizer optimizer(*sgd_, net_->named_parameters());
  loss().backward();
  const torch::Tensor gradient = net_->c->weight.grad().clone();
  const torch::Tensor before = net_->c->weight.detach().clone();
  optimizer.step();
  optimizer.step();
  EXPECT_LT(relative_difference(net_->c->weight.detach(), before - 0.2 * gradient), 1e-12);
  EXPECT_TRUE(identical_on_all_ranks(flat_parameters(*net_)));
}

// Rank 1 waits for the others at c, and they for it at b.
TEST_F(OptimizerErrorsTest, ABackwardThatReachesOneOfTwoOptimizersOnOneRank) {
  if (alone_) return;
  const OptimizerPtr of_b = sgd()(net_->b->parameters());
  const OptimizerPtr of_c = sgd()(net_->c->parameters());
  DistributedOptimizer b(*of_b, net_->b->named_parameters());
  DistributedOptimizer c(*of_c, net_->c->named_parameters());
  for (int step = 0; step < 4; ++step) {
    b.zero_grad();
    c.zero_grad();
    torch::Tensor hidden = net_->b(random({2, 7}, {step, kolo::rank()}));
    if (kolo::rank() == 1) hidden = hidden.detach();
    net_->c(hidden).pow(2).mean().backward();
    b.step();
    c.step();
    EXPECT_TRUE(identical_on_all_ranks(flat_parameters(*net_)));
  }
}

TEST_F(OptimizerErrorsTest, AnExceptionInBackwardOnOneRank) {
  DistributedOptimizer optimizer(*sgd_, net_->named_parameters());
  const int bomber = kolo::size() - 1;
  for (int step = 0; step < 2; ++step) {
    optimizer.zero_grad();
    // The head has its gradient when the bomb goes off.
    torch::Tensor hidden = net_->b(torch::tanh(net_->a(input(step, 0, kolo::rank()))));
    if (kolo::rank() == bomber) hidden = Bomb::apply(hidden);
    const torch::Tensor loss = squared_error(net_->c(hidden), step, 0, kolo::rank());
    if (kolo::rank() == bomber) {
      try {
        loss.backward();
        ADD_FAILURE() << "no exception";
      } catch (const std::exception& error) {
        EXPECT_NE(std::string(error.what()).find("the bomb goes off"), std::string::npos);
        EXPECT_EQ(dynamic_cast<const kolo::Error*>(&error), nullptr);
      }
    } else {
      expect_error([&] { loss.backward(); },
                   {"backward() ended with an exception on rank " + std::to_string(bomber)});
    }
    if (!alone_) {
      expect_error([&] { optimizer.step(); }, {"step()", "refused", "backward() again"});
    }
    expect_right_training(optimizer);
  }
}

TEST_F(OptimizerErrorsTest, AnExceptionInABackwardThatReachesTwoOptimizers) {
  const OptimizerPtr of_b = sgd()(net_->b->parameters());
  const OptimizerPtr of_c = sgd()(net_->c->parameters());
  DistributedOptimizer b(*of_b, net_->b->named_parameters());
  DistributedOptimizer c(*of_c, net_->c->named_parameters());
  const auto run = [&](bool bomb) {
    b.zero_grad();
    c.zero_grad();
    torch::Tensor x = random({2, 7}, {kolo::rank()}).requires_grad_();
    if (bomb) x = Bomb::apply(x);
    net_->c(net_->b(x)).pow(2).mean().backward();
  };
  if (kolo::rank() == 0) {
    EXPECT_THROW(run(true), std::exception);
  } else {
    expect_error([&] { run(false); }, {"on rank 0"});
  }
  run(false);
  EXPECT_TRUE(identical_on_all_ranks(net_->b->weight.grad()));
  EXPECT_TRUE(identical_on_all_ranks(net_->c->weight.grad()));
}

}  // namespace
}  // namespace kolo::testing
