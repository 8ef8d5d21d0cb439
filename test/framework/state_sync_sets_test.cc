// Ranks of a process set that go on together; tensors that are in no module of LibTorch's own.

#include "framework/training.h"

namespace kolo::testing {
namespace {

class StateSyncSetsTest : public FrameworkTest {
 protected:
  StateSyncSetsTest() {
    // All but rank 0, where there are others.
    for (int rank = kolo::size() > 1 ? 1 : 0; rank < kolo::size(); ++rank) members_.push_back(rank);
    set_ = add_process_set(members_);
    is_member_ = kolo::size() == 1 || kolo::rank() > 0;
    root_ = last_rank();
  }

  /// What a tensor that held each rank's number holds now.
  double expected() const { return is_member_ ? root_ : kolo::rank(); }

  std::vector<int> members_;
  ProcessSet set_;
  bool is_member_ = false;
  int root_ = 0;
};

TEST_F(StateSyncSetsTest, Parameters) {
  torch::nn::Linear model(3, 2);
  torch::NoGradGuard no_grad;
  for (torch::Tensor& parameter : model->parameters()) parameter.fill_(kolo::rank());
  if (is_member_) kolo::broadcast_parameters(*model, root_, set_);
  for (const torch::Tensor& parameter : model->parameters()) {
    EXPECT_TRUE(parameter.eq(expected()).all().item<bool>());
  }
  if (is_member_ && kolo::size() > 1) {
    expect_error([&] { kolo::broadcast_parameters(*model, 0, set_); }, {"root rank 0"});
  }
  expect_usable();
}

TEST_F(StateSyncSetsTest, Lists) {
  const std::vector<torch::Tensor> tensors = {torch::full({2, 2}, kolo::rank(), there()),
                                              torch::full({}, kolo::rank(), there(torch::kInt64))};
  if (is_member_) kolo::broadcast_parameters(tensors, root_, set_);
  EXPECT_EQ(tensors[0][1][1].item<double>(), expected());
  EXPECT_EQ(tensors[1].item<double>(), expected());
  kolo::broadcast_parameters(tensors, 0);
  EXPECT_EQ(tensors[0][0][1].item<double>(), 0);
}

TEST_F(StateSyncSetsTest, ListsThatDiffer) {
  if (kolo::size() == 1) return;
  std::vector<torch::Tensor> tensors = {torch::zeros({2})};
  if (kolo::rank() == last_rank()) tensors.push_back(torch::zeros({3}));
  expect_error([&] { kolo::broadcast_parameters(tensors, 0); },
               {"the tensors differ between ranks: number 2 is nothing on rank 0",
                "'tensor/1' Float [3] on rank " + std::to_string(last_rank())});
  expect_usable();
}

TEST_F(StateSyncSetsTest, TorchScript) {
  torch::jit::Module inner("inner");
  inner.register_buffer("mean", torch::full({3}, kolo::rank(), there()));
  torch::jit::Module module("module");
  module.register_parameter("weight", torch::full({2}, kolo::rank(), there()).requires_grad_(),
                            false);
  module.register_module("norm", inner);
  if (is_member_) kolo::broadcast_parameters(module, root_, set_);
  EXPECT_EQ(module.attr("weight").toTensor()[1].item<double>(), expected());
  EXPECT_EQ(module.attr("norm").toModule().attr("mean").toTensor()[2].item<double>(), expected());
  if (kolo::size() == 1) return;
  torch::jit::Module other("other");
  other.register_buffer("mean", torch::zeros({kolo::rank() == last_rank() ? 3 : 2}));
  expect_error([&] { kolo::broadcast_parameters(other, 0); },
               {"'buffer/mean' Float [2] on rank 0", "'buffer/mean' Float [3] on rank"});
  expect_usable();
}

TEST_F(StateSyncSetsTest, OptimizerState) {
  torch::nn::Linear model(3, 2);
  model->to(device());
  torch::optim::SGD optimizer(model->parameters(), torch::optim::SGDOptions(0.1).momentum(0.9));
  optimizer.param_groups()[0].options().set_lr(kolo::rank() + 1.0);
  if (is_member_) kolo::broadcast_optimizer_state(optimizer, root_, set_);
  EXPECT_EQ(optimizer.param_groups()[0].options().get_lr(), expected() + 1);
  if (!is_member_) {
    expect_error([&] { kolo::broadcast_optimizer_state(optimizer, root_, set_); },
                 {"rank 0 is not a member"});
  }
  expect_usable();
}

}  // namespace
}  // namespace kolo::testing
