// Ranks whose backward reaches other optimizers, or none; and optimizers that go while others go
// on. Right numbers on all ranks, or an error on all.

#include <array>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "framework/training.h"

namespace kolo::testing {
namespace {

void copy_parameters(const torch::nn::Module& from, torch::nn::Module& to) {
  const torch::NoGradGuard no_grad;
  const std::vector<torch::Tensor> source = from.parameters();
  const std::vector<torch::Tensor> target = to.parameters();
  for (std::size_t i = 0; i < source.size(); ++i) target[i].copy_(source[i]);
}

// ---- a backward that reaches no parameter on some ranks ----

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

// ---- two optimizers ----

/// Two networks with an optimizer each; bit i of `reached`: whether a loss is of network i.
struct Pair {
  static constexpr int kSets = 4;

  explicit Pair(bool with_kolo) {
    for (std::size_t i = 0; i < 2; ++i) {
      nets[i]->to(device(), torch::kFloat64);
      inner[i] = std::make_unique<torch::optim::SGD>(nets[i]->parameters(), 0.1);
    }
    for (std::size_t i = 0; with_kolo && i < 2; ++i) {
      wrapped[i] = std::make_unique<DistributedOptimizer>(*inner[i], nets[i]->named_parameters());
    }
  }

  torch::Tensor loss(int reached, int step, int pass, int rank) {
    torch::Tensor x = random({2, 3}, {step, pass, rank}).requires_grad_();
    for (std::size_t i = 0; i < 2; ++i) {
      if ((reached >> i) & 1) x = torch::tanh(nets[i]->forward(x));
    }
    return x.pow(2).sum();
  }
  torch::optim::Optimizer& optimizer(std::size_t i) {
    if (wrapped[i] != nullptr) return *wrapped[i];
    return *inner[i];
  }
  /// `reached`: by rank.
  void backward(const std::array<int, 2>& reached, int step, int pass) {
    if (wrapped[0] != nullptr) {
      const int rank = kolo::rank();
      loss(reached[static_cast<std::size_t>(rank % 2)], step, pass, rank).backward();
      return;
    }
    for (int rank = 0; rank < kolo::size(); ++rank) {
      const int own = reached[static_cast<std::size_t>(rank % 2)];
      if (own != 0) (loss(own, step, pass, rank) / kolo::size()).backward();
    }
  }
  torch::Tensor parameters() const {
    return torch::cat({flat_parameters(*nets[0]), flat_parameters(*nets[1])});
  }

  std::array<torch::nn::Linear, 2> nets = {torch::nn::Linear(3, 3), torch::nn::Linear(3, 3)};
  std::array<OptimizerPtr, 2> inner;
  std::array<std::unique_ptr<DistributedOptimizer>, 2> wrapped;
};

class FamiliesTest : public FrameworkTest {
 protected:
  /// Steps with each combination of what two backwards reach on even and on odd ranks, and one more
  /// step that reaches both: right numbers, or an error on all ranks. Gives how many combinations
  /// failed.
  using Step = std::function<void(Pair&, int step, const std::array<int, 2>& first,
                                  const std::array<int, 2>& second)>;
  static int run_all(const Step& step) {
    int failures = 0;
    for (int combination = 0; combination < 256 && !HasFailure(); ++combination) {
      SCOPED_TRACE(::testing::Message() << "combination " << combination);
      const std::array<int, 2> first = {combination % 4, combination / 4 % 4};
      const std::array<int, 2> second = {combination / 16 % 4, combination / 64};
      torch::manual_seed(combination);
      Pair pair(/*with_kolo=*/true);
      torch::manual_seed(combination);
      Pair oracle(/*with_kolo=*/false);
      bool failed = false;
      try {
        step(pair, 0, first, second);
        step(pair, 1, {3, 3}, {3, 3});
        step(pair, 2, {3, 3}, {3, 3});
      } catch (const Error&) {
        failed = true;
      }
      pair.wrapped = {};
      const torch::Tensor together = allreduce(torch::tensor(failed ? 1.0 : 0.0));
      EXPECT_TRUE(together.item<double>() == (failed ? 1.0 : 0.0)) << "not on all ranks";
      failures += failed ? 1 : 0;
      if (failed) continue;
      step(oracle, 0, first, second);
      step(oracle, 1, {3, 3}, {3, 3});
      step(oracle, 2, {3, 3}, {3, 3});
      EXPECT_LT(relative_difference(pair.parameters(), oracle.parameters()), 1e-10);
      EXPECT_TRUE(identical_on_all_ranks(pair.parameters()));
    }
    return failures;
  }
};

// Two steps of one backward each.
TEST_F(FamiliesTest, ABackwardThatReachesSomeOptimizers) {
  const int failures = run_all([](Pair& pair, int step, const auto& first, const auto& second) {
    int pass = 0;
    for (const auto& reached : {first, second}) {
      for (std::size_t i = 0; i < 2; ++i) pair.optimizer(i).zero_grad();
      pair.backward(reached, step, pass++);
      for (std::size_t i = 0; i < 2; ++i) pair.optimizer(i).step();
    }
  });
  EXPECT_EQ(failures, 0);
}

// As in a GAN: one after the other.
TEST_F(FamiliesTest, ABackwardForEachOfTwoOptimizers) {
  run_all([](Pair& pair, int step, const auto& first, const auto& second) {
    pair.optimizer(0).zero_grad();
    pair.backward(first, step, 0);
    pair.optimizer(0).step();
    pair.optimizer(1).zero_grad();
    pair.backward(second, step, 1);
    pair.optimizer(1).step();
  });
}

// Both backwards, then both steps.
TEST_F(FamiliesTest, TwoBackwardsBeforeTwoSteps) {
  run_all([](Pair& pair, int step, const auto& first, const auto& second) {
    for (std::size_t i = 0; i < 2; ++i) pair.optimizer(i).zero_grad();
    pair.backward(first, step, 0);
    pair.backward(second, step, 1);
    for (std::size_t i = 0; i < 2; ++i) pair.optimizer(i).step();
  });
}

// All ranks clip what they step with, also the one that has come late to both optimizers.
TEST_F(FamiliesTest, TheSameIsDoneToAveragesOnAllRanks) {
  Pair pair(/*with_kolo=*/true);
  Pair oracle(/*with_kolo=*/false);
  for (std::size_t i = 0; i < 2; ++i) copy_parameters(*pair.nets[i], *oracle.nets[i]);
  for (Pair* run : {&pair, &oracle}) {
    for (std::size_t i = 0; i < 2; ++i) run->optimizer(i).zero_grad();
    run->backward({3, 0}, 0, 0);
    run->optimizer(0).step();
    torch::nn::utils::clip_grad_norm_(run->nets[1]->parameters(), 1e-3);
    run->optimizer(1).step();
  }
  EXPECT_LT(relative_difference(pair.parameters(), oracle.parameters()), 1e-10);
  EXPECT_TRUE(identical_on_all_ranks(pair.parameters()));
}

// ---- optimizers that go ----

TEST_F(FamiliesTest, AnOptimizerThatGoesWhileOthersGoOn) {
  if (kolo::size() == 1) return;
  for (int goer = 0; goer < 2; ++goer) {
    Net net;
    torch::optim::SGD sgd(net->parameters(), 0.1);
    const torch::Tensor before = flat_parameters(*net);
    torch::Tensor after = before;
    const auto train = [&] {
      DistributedOptimizer optimizer(sgd, net->named_parameters());
      for (int step = 0; step < 6; ++step) {
        if (kolo::rank() == goer && step == 4) throw std::runtime_error("the disk is full");
        optimizer.zero_grad();
        squared_error(net->forward(input(step, 0, kolo::rank())), step, 0, kolo::rank()).backward();
        optimizer.step();
        after = flat_parameters(*net);
      }
    };
    if (kolo::rank() == goer) {
      EXPECT_THROW(train(), std::runtime_error);
    } else {
      expect_error(train, {"rank " + std::to_string(goer) + " has destroyed its optimizer"});
    }
    EXPECT_TRUE(identical(flat_parameters(*net), after));
    EXPECT_TRUE(identical_on_all_ranks(after));
    expect_usable();
  }
}

TEST_F(FamiliesTest, OneOptimizerAfterTheOther) {
  Net net;
  for (int epoch = 0; epoch < 100; ++epoch) {
    torch::optim::SGD sgd(net->parameters(), 0.01);
    DistributedOptimizer optimizer(sgd, net->named_parameters());
    optimizer.zero_grad();
    squared_error(net->forward(input(epoch, 0, kolo::rank())), epoch, 0, kolo::rank()).backward();
    optimizer.step();
  }
  EXPECT_TRUE(identical_on_all_ranks(flat_parameters(*net)));
}

}  // namespace
}  // namespace kolo::testing
