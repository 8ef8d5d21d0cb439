// Under mpirun: a gradient overflows in float16 on one rank, and all ranks skip that step.

#include "amp.h"
#include "framework/support.h"
#include "loss_scale.h"

namespace resnet_example {
namespace {

using kolo::testing::identical;
using kolo::testing::identical_on_all_ranks;

class OverflowTest : public kolo::testing::FrameworkTest {
 protected:
  static constexpr std::int64_t kSize = 4;
  static constexpr double kLearningRate = 0.5;

  OverflowTest() {
    parameters_.insert("weight", torch::ones({kSize}).requires_grad_());
    parameters_.insert("bias", torch::zeros({kSize}).requires_grad_());
  }

  static double input(int rank, int culprit) { return rank == culprit ? 4 : 1; }

  /// Of `input` times the scale / kSize, the gradient of the weight, float16 cannot hold 4 * 65536
  /// / 4.
  torch::Tensor scaled_loss(int culprit) const {
    const torch::Tensor output =
        parameters_["weight"].to(torch::kFloat16) * input(kolo::rank(), culprit) +
        parameters_["bias"].to(torch::kFloat16);
    return output.to(torch::kFloat32).mean() * scale_.factor();
  }

  bool overflows_here(int culprit) const {
    const auto gradients = torch::autograd::grad({scaled_loss(culprit)}, parameters_.values());
    return !torch::isfinite(torch::stack(gradients)).all().item<bool>();
  }

  /// As the example does. Whether the step was taken.
  bool train(torch::optim::Optimizer& optimizer, int culprit) {
    optimizer.zero_grad();
    scaled_loss(culprit).backward();
    const bool finite = unscale_gradients(parameters_.values(), scale_.factor());
    if (finite) optimizer.step();
    scale_.update(finite);
    return finite;
  }

  torch::OrderedDict<std::string, torch::Tensor> parameters_;
  LossScale scale_;
};

TEST_F(OverflowTest, OfOneRankMakesAllSkipTheStep) {
  torch::optim::SGD sgd(parameters_.values(), kLearningRate);
  kolo::DistributedOptimizer optimizer(sgd, parameters_);
  for (int culprit = 0; culprit < kolo::size(); ++culprit) {
    SCOPED_TRACE(c10::str("an overflow on rank ", culprit));
    scale_ = LossScale();
    ASSERT_EQ(overflows_here(culprit), kolo::rank() == culprit);
    const torch::Tensor before = torch::stack(parameters_.values()).detach();
    EXPECT_FALSE(train(optimizer, culprit));
    EXPECT_EQ(scale_.factor(), 32768);
    EXPECT_TRUE(identical(torch::stack(parameters_.values()), before));

    // With half the scale, the same gradients are finite.
    ASSERT_FALSE(overflows_here(culprit));
    EXPECT_TRUE(train(optimizer, culprit));
    EXPECT_EQ(scale_.factor(), 32768);
    double inputs = 0;
    for (int rank = 0; rank < kolo::size(); ++rank) inputs += input(rank, culprit);
    const torch::Tensor gradients =
        torch::tensor({inputs / kolo::size() / kSize, 1.0 / kSize}, torch::kFloat32);
    const torch::Tensor expected = before - kLearningRate * gradients.unsqueeze(1);
    const torch::Tensor after = torch::stack(parameters_.values()).detach();
    EXPECT_TRUE(torch::allclose(after, expected, 1e-6, 1e-6)) << after << expected;
    EXPECT_TRUE(identical_on_all_ranks(after));
  }
}

// inf on one rank and -inf on another make nan.
TEST_F(OverflowTest, OfOppositeSignsMakesAllSkipTheStep) {
  torch::optim::SGD sgd(parameters_.values(), kLearningRate);
  kolo::DistributedOptimizer optimizer(sgd, parameters_);
  const double sign = kolo::rank() % 2 == 0 ? 1 : -1;
  (scaled_loss(kolo::rank()) * sign).backward();
  const torch::Tensor average = parameters_["weight"].grad();
  EXPECT_TRUE((kolo::size() == 1 ? average.isinf() : average.isnan()).all().item<bool>());
  EXPECT_FALSE(unscale_gradients(parameters_.values(), scale_.factor()));
}

}  // namespace
}  // namespace resnet_example
