// Ranks whose backward reaches one of two optimizers, or both, or none; and optimizers that go
// while others go on. Right numbers on all ranks, or an error on all.

#include <array>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>

#include "framework/training.h"

namespace kolo::testing {
namespace {

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
