// Tensors of the CPU and of the GPU in one program, and those of devices that will not do.

#include <torch/cuda.h>

#include "framework/training.h"

namespace kolo::testing {
namespace {

class MixedDevicesTest : public FrameworkTest {};

/// A layer on the CPU, one on the GPU, and one on the CPU again.
struct MixedNetImpl : torch::nn::Module {
  MixedNetImpl() {
    first = register_module("first", torch::nn::Linear(5, 7));
    middle = register_module("middle", torch::nn::Linear(7, 7));
    last = register_module("last", torch::nn::Linear(7, 3));
    to(torch::kFloat64);
    middle->to(device());
  }

  torch::Tensor forward(const torch::Tensor& x) {
    const torch::Tensor hidden = torch::tanh(first(x.cpu()));
    // Both at once are ready for backward: the engine's threads work side by side.
    const torch::Tensor on_gpu = torch::tanh(middle(hidden.to(device())));
    return last(on_gpu.cpu() + hidden);
  }

  torch::nn::Linear first{nullptr}, middle{nullptr}, last{nullptr};
};
TORCH_MODULE(MixedNet);

torch::Tensor loss_of(MixedNet& net, int step, int rank) {
  return torch::mse_loss(net->forward(input(step, 0, rank)), random({4, 3}, {step, rank}).cpu());
}

std::vector<torch::Tensor> parameters_on_cpu(const MixedNet& net) {
  std::vector<torch::Tensor> parameters;
  for (const torch::Tensor& parameter : net->parameters()) {
    parameters.push_back(parameter.detach().cpu());
  }
  return parameters;
}

void expect_same(const MixedNet& a, const MixedNet& b) {
  const auto x = parameters_on_cpu(a);
  const auto y = parameters_on_cpu(b);
  for (std::size_t i = 0; i < x.size(); ++i) EXPECT_LT(relative_difference(x[i], y[i]), 1e-10);
}

MixedNet make_net() {
  torch::manual_seed(3);
  return MixedNet();
}

TEST_F(MixedDevicesTest, OneOptimizerOfParametersOnBoth) {
  for (const bool zeroes : {false, true}) {
    for (const MakeOptimizer& make : {sgd(), adam()}) {
      MixedNet net = make_net();
      MixedNet oracle = make_net();
      const OptimizerPtr inner = make(net->parameters());
      const OptimizerPtr plain = make(oracle->parameters());
      DistributedOptimizer optimizer(*inner, net->named_parameters());
      for (int step = 0; step < 10; ++step) {
        for (torch::Tensor& parameter : net->parameters()) {
          torch::Tensor& gradient = parameter.mutable_grad();
          if (zeroes && gradient.defined()) gradient.zero_();
          if (!zeroes) gradient.reset();
        }
        loss_of(net, step, kolo::rank()).backward();
        optimizer.step();
        for (torch::Tensor& parameter : oracle->parameters()) parameter.mutable_grad().reset();
        for (int rank = 0; rank < kolo::size(); ++rank) {
          (loss_of(oracle, step, rank) / kolo::size()).backward();
        }
        plain->step();
        for (const torch::Tensor& parameter : net->parameters()) {
          EXPECT_TRUE(identical_on_all_ranks(parameter)) << "step " << step;
        }
      }
      expect_same(net, oracle);
    }
  }
}

TEST_F(MixedDevicesTest, StateOfAnOptimizerOfParametersOnBoth) {
  torch::manual_seed(static_cast<std::uint64_t>(kolo::rank()));
  MixedNet net;
  const OptimizerPtr optimizer = adam()(net->parameters());
  for (int step = 0; step <= kolo::rank(); ++step) {
    optimizer->zero_grad();
    loss_of(net, step, kolo::rank()).backward();
    optimizer->step();
  }
  const int root = kolo::size() - 1;
  kolo::broadcast_parameters(*net, root);
  kolo::broadcast_optimizer_state(*optimizer, root);
  for (int step = 20; step < 23; ++step) {
    optimizer->zero_grad();
    loss_of(net, step, 0).backward();
    optimizer->step();
  }
  for (const torch::Tensor& parameter : net->parameters()) {
    EXPECT_TRUE(identical_on_all_ranks(parameter));
  }
}

TEST_F(MixedDevicesTest, OperationsOnBothUnderWayTogether) {
  std::vector<Work> works;
  for (int i = 0; i < 40; ++i) {
    const torch::Device where = i % 2 == 0 ? device() : torch::kCPU;
    works.push_back(kolo::allreduce_async(torch::full({i * 100}, i, where), {.op = ReduceOp::Max}));
  }
  for (int i = 0; i < 40; ++i) {
    const torch::Tensor result = works[static_cast<std::size_t>(i)].result();
    EXPECT_EQ(result.is_cuda(), i % 2 == 0);
    if (i > 0) {
      EXPECT_EQ(result.max().item<int>(), i);
    }
  }
}

TEST_F(MixedDevicesTest, OneRankOnTheCpuAndOneOnTheGpu) {
  if (kolo::size() == 1) return;
  const torch::Device where = kolo::rank() == 1 ? device() : torch::kCPU;
  expect_error([&] { kolo::allreduce(torch::ones({4}, where), {.name = "x"}); },
               {"'x'", "device differs", "rank 1"});
  expect_usable();
}

TEST_F(MixedDevicesTest, Int16HasNoSum) {
  expect_error([&] { kolo::allreduce(torch::ones({4}, there(torch::kInt16)), {.name = "x"}); },
               {"'x'", "int16", "int32"});
  EXPECT_EQ(kolo::allgather(torch::ones({4}, there(torch::kInt16))).numel(), 4 * kolo::size());
  expect_usable();
}

TEST_F(MixedDevicesTest, AnotherGpuThanTheRanksOwn) {
  const auto count = static_cast<int>(torch::cuda::device_count());
  if (count < 2) GTEST_SKIP() << "this host has one GPU";
  const torch::Device other(torch::kCUDA,
                            static_cast<c10::DeviceIndex>((device().index() + 1) % count));
  expect_error([&] { kolo::allreduce(torch::ones({4}, other), {.name = "x"}); },
               {"'x'", c10::str(other), c10::str(device()), "kolo::local_device()"});
  expect_error([&] { kolo::empty({4}, other); },
               {"kolo::empty()", c10::str(other), "kolo::local_device()"});
  expect_usable();
}

TEST_F(MixedDevicesTest, MemoryOfTheRanksGpuByAnyName) {
  EXPECT_EQ(kolo::empty({4}, torch::kCUDA).device(), device());
  EXPECT_EQ(kolo::empty({4}, device()).device(), device());
  EXPECT_EQ(kolo::empty({0, 4}, device()).numel(), 0);
}

}  // namespace
}  // namespace kolo::testing
