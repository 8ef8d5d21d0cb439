// What DistributedOptimizer refuses in training, and what becomes of that when one rank fails.

#include <stdexcept>

#include "framework/optimizer_errors.h"

namespace kolo::testing {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

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
    expect_error([&] { loss().backward(); },
                 {"exception on rank 0 (parameters were added to an optimizer", "wrap it anew"});
  }
  expect_usable();
}

TEST_F(OptimizerErrorsTest, ParametersThatWereExchangedLater) {
  DistributedOptimizer optimizer(*sgd_, net_->named_parameters());
  for (const bool in_wrapper : {false, true}) {
    expect_right_training(optimizer);
    torch::Tensor& parameter =
        (in_wrapper ? optimizer : optimizer.inner()).param_groups()[0].params()[3];
    const torch::Tensor before = parameter;
    parameter = torch::zeros_like(parameter).requires_grad_();
    expect_error([&] { optimizer.step(); }, {"exchanged", "wrap it anew"});
    parameter = before;
  }
  expect_right_training(optimizer);
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

TEST_F(OptimizerErrorsTest, AGradientThatWasResizedOrConvertedOnOneRank) {
  if (alone_) return;
  DistributedOptimizer optimizer(*sgd_, net_->named_parameters());
  for (const torch::Tensor& other :
       {torch::ones({5}, there(torch::kFloat64)), torch::ones({3}, there(torch::kFloat32))}) {
    expect_right_training(optimizer);
    const torch::Tensor before = flat_parameters(*net_);
    const std::vector<std::string> parts = {"c.bias' on rank 1", "shape, dtype and device"};
    if (kolo::rank() == 1) {
      net_->c->bias.mutable_grad().set_data(other);
      expect_error([&] { (net_->b->bias * 2).sum().backward(); }, parts);
      net_->c->bias.mutable_grad().reset();
    } else {
      expect_error([&] { loss().backward(); }, parts);
    }
    EXPECT_TRUE(identical(flat_parameters(*net_), before));
  }
  expect_right_training(optimizer);
}

TEST_F(OptimizerErrorsTest, ParametersThatWereConvertedLater) {
  DistributedOptimizer optimizer(*sgd_, net_->named_parameters());
  expect_right_training(optimizer);
  net_->to(torch::kFloat32);
  const auto forward = [&] { return net_->forward(input(0, 0, 0).to(torch::kFloat32)); };
  expect_error(
      [&] {
        forward().sum().backward();
        optimizer.step();
      },
      {"' was converted, moved or resized", "from Double", "to Float", "call to() first"});
  expect_usable();
}

TEST_F(OptimizerErrorsTest, SumOfGradientsThatWereNotZeroed) {
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
  const std::vector<std::string> parts = {"rank 1 calls step() without a backward()",
                                          "zero_grad()"};
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
                                           "other ranks have new ones or none", "zero_grad()"});
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
                   {"backward() ended with an exception on rank " + std::to_string(bomber) +
                        " (after the gradient of 'optimizer",
                    "/c.", "that rank's own error says more"});
    }
    expect_error([&] { optimizer.step(); }, {"step()", "refused", "backward() again"});
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
