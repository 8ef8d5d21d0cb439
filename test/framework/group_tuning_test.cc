// The groups of gradients change after the fourth step, and nothing else does.

#include <utility>
#include <vector>

#include "framework/support.h"

namespace kolo::testing {
namespace {

class GroupTuningTest : public FrameworkTest {
 protected:
  static constexpr int kSteps = 8;
  static constexpr int kAdoptedAfter = 4;

  GroupTuningTest() {
    // From a few values, which travel within a signal, up to more than the first group holds.
    for (const auto& [elements, dtype] :
         std::vector<std::pair<std::int64_t, torch::ScalarType>>{{7, torch::kFloat32},
                                                                 {300000, torch::kFloat32},
                                                                 {4097, torch::kBFloat16},
                                                                 {100000, torch::kBFloat16},
                                                                 {513, torch::kFloat32},
                                                                 {70000, torch::kFloat32},
                                                                 {1, torch::kFloat32},
                                                                 {20000, torch::kFloat32}}) {
      parameters_.insert(c10::str("p", parameters_.size()),
                         torch::zeros({elements}, there(dtype).requires_grad(true)));
    }
  }

  torch::Tensor local_gradient(std::size_t index, int step, int rank) const {
    const torch::Tensor& parameter = parameters_[index].value();
    return random(parameter.sizes(), {static_cast<int>(index), step, rank})
        .to(parameter.scalar_type());
  }

  /// Gradients come last to first.
  void backward(int step) {
    torch::Tensor sum = torch::zeros({}, there());
    for (std::size_t i = 0; i < parameters_.size(); ++i) {
      torch::Tensor& parameter = parameters_[i].value();
      if (parameter.grad().defined()) parameter.mutable_grad().zero_();
      sum = sum + (parameter * local_gradient(i, step, kolo::rank())).sum().to(torch::kFloat32);
    }
    sum.backward();
  }

  std::vector<torch::Tensor> tensors() const { return parameters_.values(); }

  torch::OrderedDict<std::string, torch::Tensor> parameters_;
};

// Group by group as well as each by itself, which is another grouping.
TEST_F(GroupTuningTest, GradientsHaveTheSameBitsHoweverTheyAreGrouped) {
  if (device().is_cuda() && kolo::size() > 2) GTEST_SKIP() << "NCCL sums in an order of its own";
  torch::optim::SGD sgd(tensors(), 0.1);
  DistributedOptimizer optimizer(sgd, parameters_);
  for (int step = 0; step < kSteps; ++step) {
    backward(step);
    for (std::size_t i = 0; i < parameters_.size(); ++i) {
      const torch::Tensor alone = kolo::allreduce(local_gradient(i, step, kolo::rank()));
      EXPECT_TRUE(identical(parameters_[i].value().grad(), alone)) << "step " << step << ", " << i;
    }
    optimizer.step();
  }
}

TEST_F(GroupTuningTest, GroupsChangeOnce) {
  if (kolo::size() == 1) return;
  torch::optim::SGD sgd(tensors(), 0.1);
  DistributedOptimizer optimizer(sgd, parameters_);
  std::vector<std::vector<void*>> places;
  for (int step = 0; step < kSteps; ++step) {
    backward(step);
    optimizer.step();
    std::vector<void*>& now = places.emplace_back();
    for (const torch::Tensor& tensor : tensors()) now.push_back(tensor.grad().data_ptr());
    if (step == 0) continue;
    EXPECT_EQ(now != places[places.size() - 2], step + 1 == kAdoptedAfter) << "step " << step;
  }
}

// Of a rank whose gradients never come in a backward there is nothing to measure.
TEST_F(GroupTuningTest, RanksThatOnlyStepKeepPace) {
  torch::optim::SGD sgd(tensors(), 0.1);
  DistributedOptimizer optimizer(sgd, parameters_);
  for (int step = 0; step < kSteps; ++step) {
    if (kolo::rank() == 0) {
      for (std::size_t i = 0; i < parameters_.size(); ++i) {
        parameters_[i].value().mutable_grad() = torch::Tensor();
      }
    } else {
      backward(step);
    }
    optimizer.step();
    for (const torch::Tensor& tensor : tensors())
      EXPECT_TRUE(identical_on_all_ranks(tensor.detach()));
  }
}

}  // namespace
}  // namespace kolo::testing
