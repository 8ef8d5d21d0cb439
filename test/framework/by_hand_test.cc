// Gradients that no backward has made, or that the program has changed since, and synchronize():
// right numbers on all ranks, or an error on all. In each run groups are adopted halfway.

#include <functional>
#include <utility>
#include <vector>

#include "framework/training.h"

namespace kolo::testing {
namespace {

constexpr int kSteps = 8;

using Tensors = std::vector<torch::Tensor>;

class ByHandTest : public FrameworkTest {
 protected:
  ByHandTest() { copy_parameters(*net_, *oracle_); }

  torch::Tensor loss_of(Net& net, int step, int rank, int pass = 0) const {
    return squared_error(net->forward(input(step, pass, rank)), step, pass, rank);
  }

  /// Without a backward; undefined where the loss does not reach.
  Tensors gradients(Net& net, int step, int rank, int pass = 0) const {
    return torch::autograd::grad({loss_of(net, step, rank, pass)}, net->parameters(), {},
                                 /*retain_graph=*/{}, /*create_graph=*/false,
                                 /*allow_unused=*/true);
  }

  /// All ranks' mean, as one process computes it.
  Tensors mean_gradients(int step, int pass = 0) {
    Tensors mean = gradients(oracle_, step, 0, pass);
    for (int rank = 1; rank < kolo::size(); ++rank) {
      const Tensors others = gradients(oracle_, step, rank, pass);
      for (std::size_t i = 0; i < mean.size(); ++i) {
        if (mean[i].defined()) mean[i] = mean[i] + others[i];
      }
    }
    for (torch::Tensor& gradient : mean) {
      if (gradient.defined()) gradient = gradient / kolo::size();
    }
    return mean;
  }

  static void put(Net& net, const Tensors& gradients) {
    for (std::size_t i = 0; i < gradients.size(); ++i) {
      net->parameters()[i].mutable_grad() = gradients[i];
    }
  }

  void undefine(Net& net) const { put(net, Tensors(net->parameters().size())); }

  void step_alone(int step) {
    put(oracle_, mean_gradients(step));
    plain_.step();
  }

  void expect_as_oracle() const {
    EXPECT_LT(relative_difference(flat_parameters(*net_), flat_parameters(*oracle_)), 1e-10);
    EXPECT_TRUE(identical_on_all_ranks(flat_parameters(*net_)));
  }

  /// `fill` gives this rank's gradients of a step; the mean of all is used.
  void expect_reduced(const std::function<void(int step)>& fill) {
    for (int step = 0; step < kSteps; ++step) {
      fill(step);
      optimizer_.step();
      step_alone(step);
      expect_as_oracle();
    }
  }

  torch::Tensor& parameter() { return net_->c->weight; }

  Net net_;
  Net oracle_;
  torch::optim::SGD inner_{net_->parameters(), torch::optim::SGDOptions(0.1).momentum(0.9)};
  torch::optim::SGD plain_{oracle_->parameters(), torch::optim::SGDOptions(0.1).momentum(0.9)};
  DistributedOptimizer optimizer_{inner_, net_->named_parameters()};
  const bool alone_ = kolo::size() == 1;
};

// ---- instead of a backward ----

TEST_F(ByHandTest, Set) {
  expect_reduced([this](int step) { put(net_, gradients(net_, step, kolo::rank())); });
}

TEST_F(ByHandTest, SetUnderNoSync) {
  expect_reduced([this](int step) {
    const auto guard = optimizer_.no_sync();
    put(net_, gradients(net_, step, kolo::rank()));
  });
}

// Which the tensor's version tells, or, through data(), does not.
TEST_F(ByHandTest, WrittenInPlace) {
  expect_reduced([this](int step) {
    const Tensors own = gradients(net_, step, kolo::rank());
    for (std::size_t i = 0; i < own.size(); ++i) {
      torch::Tensor& gradient = net_->parameters()[i].mutable_grad();
      if (!own[i].defined()) continue;
      if (!gradient.defined()) {
        gradient = own[i].clone();
      } else {
        (i % 2 == 0 ? gradient : gradient.data()).copy_(own[i]);
      }
    }
  });
}

TEST_F(ByHandTest, Synchronized) {
  expect_reduced([this](int step) {
    put(net_, gradients(net_, step, kolo::rank()));
    optimizer_.synchronize();
    const Tensors mean = mean_gradients(step);
    for (std::size_t i = 0; i < mean.size(); ++i) {
      if (!mean[i].defined()) continue;
      EXPECT_LT(relative_difference(net_->parameters()[i].grad(), mean[i]), 1e-10) << i;
    }
  });
}

// The optimizer has float32 copies of a model in bfloat16.
TEST_F(ByHandTest, MasterCopies) {
  Net masters;
  masters->to(torch::kFloat32);
  Net half;
  half->to(torch::kBFloat16);
  torch::optim::SGD sgd(masters->parameters(), 0.1);
  DistributedOptimizer optimizer(sgd, masters->named_parameters());
  Tensors expected;
  for (int step = 0; step < kSteps; ++step) {
    copy_parameters(*masters, *half);
    const auto gradients_of = [&](int rank) {
      half->zero_grad();
      half->forward(input(step, 0, rank).to(torch::kBFloat16)).pow(2).mean().backward();
      Tensors copies;
      for (const torch::Tensor& of_half : half->parameters()) {
        const torch::Tensor& gradient = of_half.grad();
        copies.push_back(gradient.defined() ? gradient.to(torch::kFloat32) : gradient);
      }
      return copies;
    };
    torch::Tensor mean = torch::zeros_like(masters->a->weight);
    for (const int rank : all_ranks()) mean += gradients_of(rank)[0] / kolo::size();
    const torch::Tensor next = masters->a->weight.detach() - 0.1 * mean;
    put(masters, gradients_of(kolo::rank()));
    optimizer.step();
    EXPECT_LT(relative_difference(masters->a->weight, next), 1e-5);
    EXPECT_TRUE(identical_on_all_ranks(flat_parameters(*masters)));
  }
}

TEST_F(ByHandTest, SetAndSummed) {
  Net net;
  torch::optim::SGD sgd(net->parameters(), 1.0);
  DistributedOptimizer optimizer(sgd, net->named_parameters(), {.op = ReduceOp::Sum});
  const double sum = kolo::size() * (kolo::size() + 1) / 2;
  for (int step = 0; step < kSteps; ++step) {
    const torch::Tensor before = flat_parameters(*net);
    for (torch::Tensor& parameter : net->parameters()) {
      torch::Tensor& gradient = parameter.mutable_grad();
      const torch::Tensor own = torch::full_like(parameter, kolo::rank() + 1).detach();
      if (step % 2 == 0) {
        gradient = own;
      } else {
        gradient.copy_(own);
      }
    }
    optimizer.step();
    EXPECT_LT(relative_difference(flat_parameters(*net), before - sum), 1e-12);
    // What was used is not summed again.
    optimizer.step();
    EXPECT_LT(relative_difference(flat_parameters(*net), before - 2 * sum), 1e-12);
  }
}

// ---- beside a backward ----

TEST_F(ByHandTest, OneBesideABackward) {
  for (const bool before : {true, false}) {
    expect_reduced([&, this](int step) {
      undefine(net_);
      const torch::Tensor own =
          torch::autograd::grad({loss_of(net_, step, kolo::rank())}, {parameter()})[0];
      const auto set = [&] { parameter().mutable_grad() = own; };
      if (before) set();
      Tensors others = net_->parameters();
      std::erase_if(others, [this](const auto& other) { return other.is_same(parameter()); });
      torch::autograd::backward({loss_of(net_, step, kolo::rank())}, {}, {}, false, others);
      if (!before) set();
    });
  }
}

TEST_F(ByHandTest, AddedToAveragesAndSynchronized) {
  for (int step = 0; step < kSteps; ++step) {
    optimizer_.zero_grad();
    loss_of(net_, step, kolo::rank()).backward();
    const Tensors more = gradients(net_, step, kolo::rank(), 1);
    const Tensors mean = mean_gradients(step);
    const Tensors mean_of_more = mean_gradients(step, 1);
    for (std::size_t i = 0; i < more.size(); ++i) {
      if (!more[i].defined()) continue;
      net_->parameters()[i].mutable_grad().add_(more[i]);
      oracle_->parameters()[i].mutable_grad() = mean[i] + mean_of_more[i];
    }
    optimizer_.synchronize();
    optimizer_.step();
    plain_.step();
    expect_as_oracle();
  }
}

// Without synchronize(), it looks like clipping.
TEST_F(ByHandTest, AddedToAverages) {
  if (alone_) return;
  const auto step = [this](int number) {
    optimizer_.zero_grad();
    loss_of(net_, number, kolo::rank()).backward();
    parameter().mutable_grad().add_(kolo::rank());
    optimizer_.step();
  };
  step(0);
  expect_error([&] { step(1); }, {"the parameters of the ranks differ in step 1", "c.weight'",
                                  "element 0", "on rank 0", "on rank 1", "gradients"});
}

TEST_F(ByHandTest, AveragesMayBeChangedOnAllRanks) {
  for (int step = 0; step < kSteps; ++step) {
    const Tensors mean = mean_gradients(step);
    optimizer_.zero_grad();
    loss_of(net_, step, kolo::rank()).backward();
    for (std::size_t i = 0; i < mean.size(); ++i) {
      if (!mean[i].defined()) continue;
      torch::Tensor& gradient = net_->parameters()[i].mutable_grad();
      // In place, or by another tensor.
      if (step % 2 == 0) gradient.clamp_(-0.01, 0.01);
      if (step % 2 == 1) gradient = gradient.clamp(-0.01, 0.01);
      oracle_->parameters()[i].mutable_grad() = mean[i].clamp(-0.01, 0.01);
    }
    optimizer_.step();
    plain_.step();
    expect_as_oracle();
  }
}

TEST_F(ByHandTest, ReplacedOnOneRank) {
  if (alone_) return;
  loss_of(net_, 0, kolo::rank()).backward();
  const std::vector<std::string> parts = {"different numbers of backward passes",
                                          "rank 0 reduces gradients for time 1 in step 1",
                                          "rank 1 for time 2 in step 0",
                                          "Rank 1 does so for the gradient of 'optimizer",
                                          "c.weight'",
                                          "set by hand since backward()",
                                          "call synchronize()"};
  if (kolo::rank() == 1) {
    parameter().mutable_grad() = torch::ones_like(parameter());
    expect_error([&] { optimizer_.step(); }, parts);
  } else {
    optimizer_.step();
    expect_error([&] { loss_of(net_, 1, kolo::rank()).backward(); }, parts);
  }
  expect_error([&] { optimizer_.step(); }, {"refused"});
}

TEST_F(ByHandTest, ReplacedSums) {
  if (alone_) return;
  Net net;
  torch::optim::SGD sgd(net->parameters(), 0.1);
  DistributedOptimizer optimizer(sgd, net->named_parameters(), {.op = ReduceOp::Sum});
  const torch::Tensor before = flat_parameters(*net);
  loss_of(net, 0, kolo::rank()).backward();
  net->c->weight.mutable_grad() = torch::ones_like(net->c->weight) * kolo::rank();
  expect_error([&] { optimizer.step(); },
               {"c.weight'", "set by hand", "Sum", "call synchronize() before step()"});
  EXPECT_TRUE(identical(flat_parameters(*net), before));
}

// ---- ranks whose loss reaches nothing ----

/// By the step, all ranks but one have a loss.
int without_loss(int step) { return step % kolo::size(); }

TEST_F(ByHandTest, SynchronizedInThePlaceOfABackward) {
  if (alone_) return;
  for (int step = 0; step < kSteps; ++step) {
    optimizer_.zero_grad();
    plain_.zero_grad();
    if (kolo::rank() == without_loss(step)) {
      optimizer_.synchronize();
    } else {
      loss_of(net_, step, kolo::rank()).backward();
    }
    for (const int rank : all_ranks()) {
      if (rank != without_loss(step)) (loss_of(oracle_, step, rank) / kolo::size()).backward();
    }
    for (Net* net : {&net_, &oracle_}) {
      Tensors used;
      for (const torch::Tensor& parameter : (*net)->parameters()) {
        if (parameter.grad().defined()) used.push_back(parameter);
      }
      EXPECT_GT(torch::nn::utils::clip_grad_norm_(used, 1e-2), 1e-2);
    }
    optimizer_.step();
    plain_.step();
    expect_as_oracle();
  }
}

// One rank's are by autograd::grad(), which reaches step().
TEST_F(ByHandTest, SetOnOneRankWhileOthersAreInABackward) {
  expect_reduced([this](int step) {
    if (kolo::rank() == 1) {
      put(net_, gradients(net_, step, kolo::rank()));
    } else {
      optimizer_.zero_grad();
      loss_of(net_, step, kolo::rank()).backward();
    }
  });
}

// Of two optimizers, each synchronize() stands for the one backward.
TEST_F(ByHandTest, TwoOptimizersSynchronizedInThePlaceOfABackward) {
  if (alone_) return;
  torch::nn::Linear b(7, 7), c(7, 3);
  b->to(device(), torch::kFloat64);
  c->to(device(), torch::kFloat64);
  torch::optim::SGD sgd_of_b(b->parameters(), 0.1), sgd_of_c(c->parameters(), 0.1);
  DistributedOptimizer of_b(sgd_of_b, b->named_parameters());
  DistributedOptimizer of_c(sgd_of_c, c->named_parameters());
  const auto loss = [&](int step, int rank) {
    return c(b(random({4, 7}, {step, rank}))).pow(2).mean();
  };
  for (int step = 0; step < kSteps; ++step) {
    const auto weights = {b->weight, c->weight};
    std::vector<torch::Tensor> expected = {torch::zeros_like(b->weight),
                                           torch::zeros_like(c->weight)};
    for (const int rank : all_ranks()) {
      if (rank == without_loss(step)) continue;
      const Tensors own = torch::autograd::grad({loss(step, rank)}, weights);
      for (std::size_t i = 0; i < 2; ++i) expected[i] += own[i] / kolo::size();
    }
    of_b.zero_grad();
    of_c.zero_grad();
    if (kolo::rank() == without_loss(step)) {
      of_c.synchronize();
      of_b.synchronize();
    } else {
      loss(step, kolo::rank()).backward();
    }
    EXPECT_LT(relative_difference(b->weight.grad(), expected[0]), 1e-10) << step;
    EXPECT_LT(relative_difference(c->weight.grad(), expected[1]), 1e-10) << step;
    of_b.step();
    of_c.step();
    EXPECT_TRUE(identical_on_all_ranks(c->weight.detach()));
  }
}

TEST_F(ByHandTest, SynchronizedOnOneRankOnly) {
  if (alone_) return;
  loss_of(net_, 0, kolo::rank()).backward();
  const std::vector<std::string> parts = {"rank 1 for time 2 in step 0",
                                          "Rank 1 does so in synchronize()", "equally often"};
  if (kolo::rank() == 1) {
    expect_error([&] { optimizer_.synchronize(); }, parts);
  } else {
    optimizer_.step();
    expect_error([&] { loss_of(net_, 1, kolo::rank()).backward(); }, parts);
  }
}

}  // namespace
}  // namespace kolo::testing
