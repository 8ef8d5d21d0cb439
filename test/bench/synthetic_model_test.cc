// What the synthetic model makes autograd and the clock do, without reducing anything.

#include "bench/synthetic_model.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "bench/check.h"

namespace kolo::bench {
namespace {

constexpr int kRank = 1;
constexpr int kRanks = 3;

const std::vector<Shape>& shapes() {
  static const std::vector<Shape> kShapes = {{2, 3}, {5}, {4, 1, 2}, {7}};
  return kShapes;
}

/// What is asked of it, in milliseconds; it takes no time.
class Asked {
 public:
  Compute compute() {
    return Compute(
        [this](Seconds duration) {
          milliseconds_.push_back(1e3 * duration.count());
          return duration;
        },
        Seconds(0));
  }
  /// Since the last time.
  std::vector<double> take() { return std::exchange(milliseconds_, {}); }

 private:
  std::vector<double> milliseconds_;
};

void expect_spread(const std::vector<double>& milliseconds, std::size_t parts, double part) {
  EXPECT_EQ(milliseconds.size(), parts);
  for (const double one : milliseconds) EXPECT_NEAR(one, part, 1e-9);
}

TEST(SyntheticModel, TimesAreSpreadOverTheLayers) {
  const SyntheticData data(shapes(), kRank, kRanks);
  const ComputeTimes times{
      .forward = Seconds(8e-3), .backward = Seconds(20e-3), .optimizer = Seconds(3e-3)};
  Asked asked;
  SyntheticModel model(data, times, asked.compute());
  SyntheticOptimizer optimizer(model, times, asked.compute());
  for (int step = 0; step < 2; ++step) {
    const torch::Tensor loss = model.forward();
    expect_spread(asked.take(), 4, 2);
    loss.backward();
    expect_spread(asked.take(), 4, 5);
    optimizer.step();
    expect_spread(asked.take(), 1, 3);
  }
}

TEST(SyntheticModel, GradientsFollowTheirLayersFromTheLastToTheFirst) {
  const SyntheticData data(shapes(), kRank, kRanks);
  const ComputeTimes times{.backward = Seconds(4e-3)};
  std::vector<std::size_t> ready;
  SyntheticModel* seen = nullptr;
  // Before each layer: how many gradients there are, which are the last ones.
  const auto count = [&](Seconds duration) {
    const auto& parameters = seen->parameters();
    const auto first = std::ranges::find_if(
        parameters, [](const torch::Tensor& one) { return one.grad().defined(); });
    ready.push_back(static_cast<std::size_t>(parameters.end() - first));
    return duration;
  };
  SyntheticModel model(data, times, Compute(count, Seconds(0)));
  seen = &model;
  model.forward().backward();
  EXPECT_EQ(ready, (std::vector<std::size_t>{0, 1, 2, 3}));
}

/// What check.h says about the gradients, which nobody has averaged.
void expect_own_gradients(const SyntheticModel& model, double factor) {
  for (std::size_t i = 0; i < shapes().size(); ++i) {
    const torch::Tensor gradient = model.parameters()[i].grad();
    ASSERT_TRUE(gradient.defined());
    const torch::Tensor flat = gradient.reshape({-1});
    for (std::int64_t j = 0; j < flat.numel(); ++j) {
      EXPECT_EQ(flat[j].item<double>(),
                factor * kRanks * contribution(kRank, i, static_cast<std::size_t>(j)));
    }
  }
}

TEST(SyntheticModel, ZeroKeepsTheMemoryOfGradients) {
  const SyntheticData data(shapes(), kRank, kRanks);
  SyntheticModel model(data, {}, Compute(ComputeAs::Work));
  model.zero_grad(ZeroGrad::Zero);
  model.forward().backward();
  const torch::Tensor gradient = model.parameters().front().grad();
  model.zero_grad(ZeroGrad::Zero);
  EXPECT_TRUE(model.parameters().front().grad().is_same(gradient));
  EXPECT_EQ(gradient.count_nonzero().item<int>(), 0);
  model.forward().backward();
  EXPECT_TRUE(model.parameters().front().grad().is_same(gradient));
  expect_own_gradients(model, 1);
}

TEST(SyntheticModel, NoneLetsAutogradStoreNewGradients) {
  const SyntheticData data(shapes(), kRank, kRanks);
  SyntheticModel model(data, {}, Compute(ComputeAs::Work));
  model.zero_grad(ZeroGrad::None);
  model.forward().backward();
  const torch::Tensor old = model.parameters().front().grad();
  model.zero_grad(ZeroGrad::None);
  for (const torch::Tensor& one : model.parameters()) EXPECT_FALSE(one.grad().defined());
  model.forward().backward();
  EXPECT_FALSE(model.parameters().front().grad().is_same(old));
  expect_own_gradients(model, 1);
}

TEST(SyntheticModel, StoredGradientsAreNotTheData) {
  const SyntheticData data(shapes(), kRank, kRanks);
  SyntheticModel model(data, {}, Compute(ComputeAs::Work));
  model.forward().backward();
  for (const torch::Tensor& one : model.parameters()) one.grad().fill_(-1);
  model.zero_grad(ZeroGrad::None);
  model.forward().backward();
  expect_own_gradients(model, 1);
}

TEST(SyntheticModel, ScaledGradients) {
  SyntheticData data(shapes(), kRank, kRanks);
  SyntheticModel model(data, {}, Compute(ComputeAs::Work));
  data.scale(2);
  model.forward().backward();
  expect_own_gradients(model, 2);
}

}  // namespace
}  // namespace kolo::bench
