// The groups of gradients change after the fourth step, and nothing else does; or there is no
// memory for them.

#include <c10/core/CPUAllocator.h>

#include <cstdlib>
#include <cstring>
#include <new>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "framework/support.h"

namespace kolo::testing {
namespace {

/// While it lives, LibTorch has memory for tensors on the CPU, except for those of just `bytes`.
class LackOfMemory final : public c10::Allocator {
 public:
  explicit LackOfMemory(std::size_t bytes) : bytes_(bytes) { c10::SetCPUAllocator(this); }
  ~LackOfMemory() override { c10::SetCPUAllocator(before_); }
  LackOfMemory(const LackOfMemory&) = delete;
  LackOfMemory& operator=(const LackOfMemory&) = delete;

  // The one is LibTorch 1's, the other LibTorch 2's, which has copy_data(), too.
  c10::DataPtr allocate(std::size_t bytes) const {
    if (bytes == bytes_) throw std::bad_alloc();
    return before_->allocate(bytes);
  }
  c10::DataPtr allocate(std::size_t bytes) { return std::as_const(*this).allocate(bytes); }
  void copy_data(void* to, const void* from, std::size_t bytes) const {
    std::memcpy(to, from, bytes);
  }

 private:
  const std::size_t bytes_;
  c10::Allocator* const before_ = c10::GetCPUAllocator();
};

class GroupTuningTest : public FrameworkTest {
 protected:
  static constexpr int kSteps = 8;
  static constexpr int kSentAfter = 3;
  static constexpr int kAdoptedAfter = 4;
  static constexpr const char* kStopped = "its gradients could not be grouped anew";

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

  /// Gradients come first to last, and so against the order of the first groups, and must move.
  void backward(int step) {
    torch::Tensor sum = torch::zeros({}, there());
    for (std::size_t i = parameters_.size(); i-- > 0;) {
      torch::Tensor& parameter = parameters_[i].value();
      if (parameter.grad().defined()) parameter.mutable_grad().zero_();
      sum = sum + (parameter * local_gradient(i, step, kolo::rank())).sum().to(torch::kFloat32);
    }
    sum.backward();
  }

  std::vector<torch::Tensor> tensors() const { return parameters_.values(); }

  torch::Tensor values() const {
    std::vector<torch::Tensor> all;
    for (const torch::Tensor& tensor : tensors()) {
      all.push_back(tensor.detach().to(torch::kFloat32));
    }
    return torch::cat(all);
  }

  /// KOLO_FUSION_THRESHOLD=0 gives each parameter a group of its own, whose memory it keeps:
  /// gradients do not move, which GroupsChangeOnce checks, and there is no memory to run out of.
  static bool alone_in_groups() {
    const char* const threshold = std::getenv("KOLO_FUSION_THRESHOLD");
    return threshold != nullptr && std::string_view(threshold) == "0";
  }

  static std::string gone(int rank) {
    return c10::str("rank ", rank,
                    " has destroyed its optimizer without taking part, or an exception");
  }

  /// Steps after `failed`, in which `rank` could not go on.
  void expect_refusals(DistributedOptimizer& optimizer, int failed, int rank) {
    const torch::Tensor before = values();
    const bool here = kolo::rank() == rank;
    for (int step = failed; step < kSteps; ++step) {
      expect_error([&] { backward(step); }, {here ? kStopped : gone(rank)});
      expect_error([&] { optimizer.step(); }, {here ? "cannot go on" : "were refused"});
    }
    EXPECT_TRUE(identical(values(), before));
    expect_usable();
  }

  void train(DistributedOptimizer& optimizer, int steps) {
    for (int step = 0; step < steps; ++step) {
      backward(step);
      optimizer.step();
    }
  }

  /// A rank that could not make a step is behind.
  void broadcast_parameters() const {
    for (const torch::Tensor& tensor : tensors()) {
      torch::Tensor data = tensor.detach();
      kolo::broadcast_(data, 0);
    }
  }

  /// Leaves the round to step().
  void backward_alone(DistributedOptimizer& optimizer, int step) {
    const auto guard = optimizer.no_sync();
    backward(step);
  }

  /// The step after which groups are adopted. On rank 1 one of `parameters_` is, as long as it
  /// takes, larger than all memory.
  void step_without_memory_on_rank_1(DistributedOptimizer& optimizer) {
    backward_alone(optimizer, kAdoptedAfter - 1);
    if (kolo::rank() != 1) {
      optimizer.step();
      return;
    }
    const torch::Tensor before = values();
    torch::Tensor& parameter = parameters_["p1"];
    const torch::Tensor data = parameter.detach();
    parameter.set_data(torch::zeros({1}, data.options()).expand({std::int64_t{1} << 50}));
    expect_error([&] { optimizer.step(); }, {"not enough memory for gradients", "bytes"});
    parameter.set_data(data);
    EXPECT_TRUE(identical(values(), before));
  }

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
    const bool move = step + 1 == kAdoptedAfter && !alone_in_groups();
    EXPECT_EQ(now != places[places.size() - 2], move) << "step " << step;
  }
}

// What a program has kept of a gradient is what it steps with, also once that has moved.
TEST_F(GroupTuningTest, KeptGradientsStayTheSameTensors) {
  torch::optim::SGD sgd(tensors(), 0.5);
  DistributedOptimizer optimizer(sgd, parameters_);
  std::vector<torch::Tensor> kept;
  for (int step = 0; step < kSteps; ++step) {
    std::vector<torch::Tensor> expected;
    backward(step);
    for (std::size_t i = 0; i < parameters_.size(); ++i) {
      const torch::Tensor& tensor = parameters_[i].value();
      if (step == 0) kept.push_back(tensor.grad());
      EXPECT_TRUE(tensor.grad().is_same(kept[i]));
      kept[i].mul_(0.25);
      torch::Tensor mean = torch::zeros(tensor.sizes(), there());
      for (const int rank : all_ranks()) mean += local_gradient(i, step, rank).to(torch::kFloat32);
      expected.push_back(tensor.detach().to(torch::kFloat32) - 0.125 * mean / kolo::size());
    }
    optimizer.step();
    for (std::size_t i = 0; i < expected.size(); ++i) {
      EXPECT_LT(relative_difference(parameters_[i].value(), expected[i]), 2e-2) << step << ", " << i;
    }
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

TEST_F(GroupTuningTest, NoMemoryForThemOnARank) {
  if (kolo::size() == 1) return;
  if (alone_in_groups()) GTEST_SKIP() << "groups of one parameter each need no other memory";
  torch::optim::SGD sgd(tensors(), 0.1);
  {
    DistributedOptimizer optimizer(sgd, parameters_);
    train(optimizer, kAdoptedAfter - 1);
    step_without_memory_on_rank_1(optimizer);
    expect_refusals(optimizer, kAdoptedAfter, 1);
  }
  broadcast_parameters();
  DistributedOptimizer after(sgd, parameters_);
  backward(0);
  for (const torch::Tensor& tensor : tensors()) EXPECT_TRUE(identical_on_all_ranks(tensor.grad()));
}

// Before they are sent: nobody goes on with groups that others do not have. Also where the rank is
// the one that has found them.
TEST_F(GroupTuningTest, NoMemoryToSendThemOnARank) {
  if (kolo::size() == 1) return;
  const std::size_t sent = 2 * parameters_.size() * sizeof(std::int64_t);
  for (const int rank : {0, 1}) {
    broadcast_parameters();
    torch::optim::SGD sgd(tensors(), 0.1);
    DistributedOptimizer optimizer(sgd, parameters_);
    train(optimizer, kSentAfter - 1);
    backward_alone(optimizer, kSentAfter - 1);
    if (kolo::rank() == rank) {
      const torch::Tensor before = values();
      const LackOfMemory lack(sent);
      expect_error([&] { optimizer.step(); }, {"bad_alloc"});
      EXPECT_TRUE(identical(values(), before));
    } else {
      optimizer.step();
    }
    expect_refusals(optimizer, kSentAfter, rank);
  }
}

// The others wait for rank 1 neither in the first's rounds nor in the family's calls.
TEST_F(GroupTuningTest, NoMemoryForThoseOfOneOfTwoOptimizersOnARank) {
  if (kolo::size() == 1) return;
  if (alone_in_groups()) GTEST_SKIP() << "groups of one parameter each need no other memory";
  torch::OrderedDict<std::string, torch::Tensor> others;
  others.insert("other", torch::zeros({5}, there().requires_grad(true)));
  torch::optim::SGD sgd(tensors(), 0.1);
  torch::optim::SGD sgd_of_other(others.values(), 0.1);
  DistributedOptimizer optimizer(sgd, parameters_);
  DistributedOptimizer other(sgd_of_other, others);
  train(optimizer, kAdoptedAfter - 1);
  step_without_memory_on_rank_1(optimizer);
  const bool here = kolo::rank() == 1;
  expect_error([&] { backward(kAdoptedAfter); }, {here ? kStopped : gone(1)});
  // The other one goes on.
  for (int step = 0; step < kSteps; ++step) {
    other.zero_grad();
    (others["other"] * static_cast<double>(kolo::rank())).sum().backward();
    other.step();
  }
  EXPECT_TRUE(identical_on_all_ranks(others["other"].detach()));
  EXPECT_NE(others["other"][0].item<double>(), 0);
}

}  // namespace
}  // namespace kolo::testing
