// Ranks whose backward reaches no parameter: right numbers on all ranks, or an error on all.

#include <functional>
#include <stdexcept>

#include "framework/training.h"

namespace kolo::testing {
namespace {

class LatecomersTest : public FrameworkTest {
 protected:
  LatecomersTest() { copy_parameters(*net_, *oracle_); }

  torch::Tensor loss_of(Net& net, int rank, int step, int pass = 0) const {
    return squared_error(net->forward(input(step, pass, rank)), step, pass, rank);
  }

  /// As a program whose loss may be a constant.
  void backward(bool reaches, int step, int pass = 0) {
    const torch::Tensor constant = torch::ones({1}, there(torch::kFloat64)).requires_grad_();
    (reaches ? loss_of(net_, kolo::rank(), step, pass) : constant.sum()).backward();
  }

  /// The mean over all ranks, of which only some have a loss, in one process.
  void oracle_backward(const std::function<bool(int rank)>& reaches, int step, int pass = 0) {
    for (int rank = 0; rank < kolo::size(); ++rank) {
      if (reaches(rank)) (loss_of(oracle_, rank, step, pass) / kolo::size()).backward();
    }
  }

  void expect_as_oracle() const {
    EXPECT_LT(relative_difference(flat_parameters(*net_), flat_parameters(*oracle_)), 1e-10);
    EXPECT_TRUE(identical_on_all_ranks(flat_parameters(*net_)));
  }

  void expect_right_training(int step) {
    copy_parameters(*net_, *oracle_);
    for (int end = step + 3; step < end; ++step) {
      optimizer_.zero_grad();
      plain_.zero_grad();
      backward(true, step);
      oracle_backward([](int) { return true; }, step);
      optimizer_.step();
      plain_.step();
    }
    expect_as_oracle();
  }

  /// Rank 1 comes late, and others have altered c's gradient by then.
  void expect_alteration_is_found(const std::function<void()>& alter) {
    const bool late = kolo::rank() == 1;
    const torch::Tensor before = flat_parameters(*net_);
    optimizer_.zero_grad();
    expect_error(
        [&] {
          backward(!late, 0);
          alter();
          optimizer_.step();
        },
        {"rank 0 has altered the gradient of 'optimizer", "weight'", "not done on rank 1",
         "reached no parameter", "0 * output.sum()"});
    EXPECT_TRUE(identical(flat_parameters(*net_), before));
    expect_error([&] { optimizer_.step(); }, {"refused", "altered", "backward() again"});
    EXPECT_TRUE(identical(flat_parameters(*net_), before));
    expect_right_training(10);
  }

  Net net_;
  Net oracle_;
  // Without momentum: without a memory.
  torch::optim::SGD inner_{net_->parameters(), 0.1};
  torch::optim::SGD plain_{oracle_->parameters(), 0.1};
  DistributedOptimizer optimizer_{inner_, net_->named_parameters()};
  const bool alone_ = kolo::size() == 1;
};

TEST_F(LatecomersTest, GradientsThatNobodyAlters) {
  if (alone_) return;
  // In each step another number of ranks.
  for (int step = 0; step < 8; ++step) {
    const auto reaches = [step](int rank) { return (rank + step) % 4 != 0 && rank != step % 3; };
    optimizer_.zero_grad();
    plain_.zero_grad();
    backward(reaches(kolo::rank()), step);
    oracle_backward(reaches, step);
    optimizer_.step();
    plain_.step();
    expect_as_oracle();
  }
}

TEST_F(LatecomersTest, GradientsThatAreClipped) {
  if (alone_) return;
  expect_alteration_is_found([&] { torch::nn::utils::clip_grad_norm_(net_->parameters(), 1e-3); });
}

// It multiplies by 1.
TEST_F(LatecomersTest, ClippingThatChangesNothing) {
  if (alone_) return;
  const auto reaches = [](int rank) { return rank != 1; };
  for (int step = 0; step < 3; ++step) {
    optimizer_.zero_grad();
    plain_.zero_grad();
    backward(reaches(kolo::rank()), step);
    oracle_backward(reaches, step);
    torch::nn::utils::clip_grad_norm_(net_->parameters(), 1e9);
    optimizer_.step();
    plain_.step();
    expect_as_oracle();
  }
}

TEST_F(LatecomersTest, GradientsThatAreScaled) {
  if (alone_) return;
  expect_alteration_is_found([&] {
    const torch::Tensor gradient = net_->c->weight.grad();
    if (gradient.defined()) gradient.mul_(0.5);
  });
}

TEST_F(LatecomersTest, GradientsThatAreReplaced) {
  if (alone_) return;
  expect_alteration_is_found([&] {
    torch::Tensor& gradient = net_->c->weight.mutable_grad();
    if (gradient.defined()) gradient = gradient * 2;
  });
}

TEST_F(LatecomersTest, GradientsThatAreZeroed) {
  if (alone_) return;
  expect_alteration_is_found([&] { optimizer_.zero_grad(); });
}

TEST_F(LatecomersTest, GradientsThatAreMadeUndefined) {
  if (alone_) return;
  expect_alteration_is_found([&] { net_->c->weight.mutable_grad().reset(); });
}

TEST_F(LatecomersTest, GradientsThatAreAlteredBetweenTwoBackwards) {
  if (alone_) return;
  const torch::Tensor before = flat_parameters(*net_);
  expect_error(
      [&] {
        backward(kolo::rank() != 1, 0);
        torch::nn::utils::clip_grad_norm_(net_->parameters(), 1e-3);
        backward(kolo::rank() != 1, 0, 1);
        optimizer_.step();
      },
      {"rank 0 has altered", "not done on rank 1"});
  EXPECT_TRUE(identical(flat_parameters(*net_), before));
  optimizer_.zero_grad();
  expect_right_training(10);
}

// The one that comes late runs its backwards in vain, and is called in step() for each of the
// others'.
TEST_F(LatecomersTest, SeveralBackwardsBeforeAStep) {
  if (alone_) return;
  for (int step = 0; step < 6; ++step) {
    const auto reaches = [step](int rank) { return rank != step % kolo::size(); };
    optimizer_.zero_grad();
    plain_.zero_grad();
    for (int pass = 0; pass < 1 + step % 3; ++pass) {
      backward(reaches(kolo::rank()), step, pass);
      oracle_backward(reaches, step, pass);
    }
    optimizer_.step();
    plain_.step();
    expect_as_oracle();
  }
}

TEST_F(LatecomersTest, BackwardsUnderNoSync) {
  if (alone_) return;
  for (int step = 0; step < 6; ++step) {
    const auto reaches = [step](int rank) { return rank != step % kolo::size(); };
    optimizer_.zero_grad();
    plain_.zero_grad();
    for (int pass = 0; pass < 2; ++pass) {
      {
        // Before or after the one that synchronises.
        const auto guard = optimizer_.no_sync();
        if (step % 2 == pass) backward(reaches(kolo::rank()), step, pass);
      }
      if (step % 2 != pass) backward(reaches(kolo::rank()), step, pass);
      oracle_backward(reaches, step, pass);
    }
    optimizer_.step();
    plain_.step();
    expect_as_oracle();
  }
}

TEST_F(LatecomersTest, Closures) {
  if (alone_) return;
  const auto reaches = [](int rank) { return rank != 1; };
  const auto closure = [&](double scale) {
    return [&, scale] {
      optimizer_.zero_grad();
      backward(reaches(kolo::rank()), 0);
      const torch::Tensor gradient = net_->c->weight.grad();
      if (scale != 1 && gradient.defined()) gradient.mul_(scale);
      return torch::ones({}, there(torch::kFloat64));
    };
  };
  plain_.zero_grad();
  oracle_backward(reaches, 0);
  optimizer_.step(closure(1));
  plain_.step();
  expect_as_oracle();
  const torch::Tensor before = flat_parameters(*net_);
  expect_error([&] { optimizer_.step(closure(0.5)); }, {"rank 0 has altered", "c.weight'"});
  EXPECT_TRUE(identical(flat_parameters(*net_), before));
  expect_right_training(10);
}

TEST_F(LatecomersTest, StepsWithoutGradients) {
  const torch::Tensor before = flat_parameters(*net_);
  for (int step = 0; step < 3; ++step) {
    optimizer_.zero_grad();
    backward(false, step);
    optimizer_.step();
  }
  EXPECT_TRUE(identical(flat_parameters(*net_), before));
  expect_right_training(10);
}

// Rank 0 has it after the round that rank 1 comes late to.
TEST_F(LatecomersTest, AnExceptionBeforeStep) {
  if (alone_) return;
  Net other;
  torch::optim::SGD sgd(other->parameters(), 0.1);
  const auto train = [&] {
    DistributedOptimizer optimizer(sgd, other->named_parameters());
    const torch::Tensor constant = torch::ones({1}).requires_grad_();
    (kolo::rank() == 1 ? constant.sum() : other->forward(input(0, 0, 0)).sum()).backward();
    if (kolo::rank() == 0) throw std::runtime_error("the disk is full");
    optimizer.step();
  };
  if (kolo::rank() == 0) {
    EXPECT_THROW(train(), std::runtime_error);
  } else {
    expect_error(train, {"rank 0 has destroyed its optimizer"});
  }
  expect_usable();
}

}  // namespace
}  // namespace kolo::testing
