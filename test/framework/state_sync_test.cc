// Ranks that start apart, and go on together.

#include <sstream>

#include "framework/training.h"

namespace kolo::testing {
namespace {

class StateSyncTest : public FrameworkTest {};

/// Parameters and buffers, some of them not contiguous, with a rank's own numbers.
torch::nn::Sequential make_model(int rank) {
  torch::manual_seed(static_cast<std::uint64_t>(100 + rank));
  torch::nn::Sequential model(torch::nn::Conv2d(3, 4, 3), torch::nn::BatchNorm2d(4),
                              torch::nn::Linear(5, 2));
  const torch::NoGradGuard no_grad;
  for (torch::Tensor& parameter : model->parameters()) {
    if (parameter.dim() == 4) {
      parameter.set_data(parameter.contiguous(torch::MemoryFormat::ChannelsLast));
    } else if (parameter.dim() == 2) {
      parameter.set_data(parameter.t().contiguous().t());
    }
  }
  for (torch::Tensor& buffer : model->buffers()) buffer.add_(rank + 1);
  model->to(device());
  return model;
}

void expect_same_module(const torch::nn::Module& actual, const torch::nn::Module& expected) {
  const auto compare = [](const auto& a, const auto& b) {
    ASSERT_EQ(a.size(), b.size());
    for (std::size_t i = 0; i < a.size(); ++i) {
      EXPECT_TRUE(identical(a[i].value(), b[i].value())) << a[i].key();
      EXPECT_EQ(a[i].value().strides(), b[i].value().strides()) << a[i].key();
      EXPECT_EQ(a[i].value().requires_grad(), b[i].value().requires_grad()) << a[i].key();
    }
  };
  compare(actual.named_parameters().items(), expected.named_parameters().items());
  compare(actual.named_buffers().items(), expected.named_buffers().items());
}

TEST_F(StateSyncTest, ParametersAndBuffersOfAnyRank) {
  for (const int root : {0, last_rank()}) {
    torch::nn::Sequential model = make_model(kolo::rank());
    kolo::broadcast_parameters(*model, root);
    expect_same_module(*model, *make_model(root));
  }
}

TEST_F(StateSyncTest, BuffersThatAreUndefined) {
  torch::nn::Linear model(2, 2);
  model->register_buffer("none", torch::Tensor());
  kolo::broadcast_parameters(*model, 0);
  EXPECT_TRUE(identical_on_all_ranks(model->weight));
}

void expect_differing_modules(const std::function<void(torch::nn::Linear&)>& change,
                              const std::vector<std::string>& parts) {
  torch::nn::Linear model(3, 2);
  if (kolo::rank() == last_rank()) change(model);
  if (kolo::size() == 1) return;
  expect_error([&] { kolo::broadcast_parameters(*model, 0); }, parts);
  expect_usable();
}

TEST_F(StateSyncTest, ModulesThatDiffer) {
  const std::string on_last = "on rank " + std::to_string(last_rank());
  expect_differing_modules([](torch::nn::Linear& model) { model = torch::nn::Linear(4, 2); },
                           {"weight", "[2, 3] on rank 0", "[2, 4] " + on_last});
  expect_differing_modules([](torch::nn::Linear& model) { model->to(torch::kFloat64); },
                           {"weight", "Float", "Double", on_last});
  expect_differing_modules(
      [](torch::nn::Linear& model) { model->register_buffer("extra", torch::ones({2})); },
      {"extra", "nothing on rank 0", on_last});
  expect_differing_modules(
      [](torch::nn::Linear& model) {
        model = torch::nn::Linear(torch::nn::LinearOptions(3, 2).bias(false));
      },
      {"bias", "nothing " + on_last});
}

TEST_F(StateSyncTest, RootsThatDoNotExist) {
  torch::nn::Linear model(3, 2);
  torch::optim::SGD optimizer(model->parameters(), 0.1);
  const std::string root = "root rank " + std::to_string(kolo::size()) + " is out of range";
  expect_error([&] { kolo::broadcast_parameters(*model, kolo::size()); }, {root});
  expect_error([&] { kolo::broadcast_optimizer_state(optimizer, kolo::size()); }, {root});
  expect_usable();
}

// ---- optimizers ----

template <typename Optimizer, typename Options>
MakeOptimizer maker(const Options& options) {
  return [options](std::vector<torch::Tensor> parameters) -> OptimizerPtr {
    return std::make_unique<Optimizer>(std::move(parameters), options);
  };
}

std::vector<std::pair<std::string, MakeOptimizer>> makers() {
  using namespace torch::optim;  // NOLINT(google-build-using-namespace)
  return {{"SGD", maker<SGD>(SGDOptions(0.1))},
          {"SGD with momentum", maker<SGD>(SGDOptions(0.1).momentum(0.9))},
          {"Adam", maker<Adam>(AdamOptions(0.01))},
          {"Adam with amsgrad", maker<Adam>(AdamOptions(0.01).amsgrad(true))},
          {"AdamW", maker<AdamW>(AdamWOptions(0.01))},
          {"RMSprop", maker<RMSprop>(RMSpropOptions(0.01).momentum(0.9).centered(true))},
          {"Adagrad", maker<Adagrad>(AdagradOptions(0.05).lr_decay(0.01))}};
}

/// A net and its optimizer, trained on a rank's own data.
struct Trained {
  Trained(const MakeOptimizer& make, int rank, int steps) {
    torch::manual_seed(static_cast<std::uint64_t>(rank));
    net = Net();
    optimizer = make(net->parameters());
    for (auto& group : optimizer->param_groups()) {
      group.options().set_lr(group.options().get_lr() * (rank + 1));
    }
    go_on(steps, rank);
  }

  void go_on(int steps, int rank) {
    for (int step = 0; step < steps; ++step) {
      optimizer->zero_grad();
      squared_error(net->forward(input(step, 2, rank)), step, 2, rank).backward();
      optimizer->step();
    }
  }

  Net net;
  OptimizerPtr optimizer;
};

/// All ranks are now what `root` is, and stay so.
void expect_to_go_on_as(Trained& own, Trained& root) {
  EXPECT_TRUE(identical(flat_parameters(*own.net), flat_parameters(*root.net)));
  EXPECT_EQ(own.optimizer->param_groups()[0].options().get_lr(),
            root.optimizer->param_groups()[0].options().get_lr());
  own.go_on(4, 77);
  root.go_on(4, 77);
  EXPECT_TRUE(identical(flat_parameters(*own.net), flat_parameters(*root.net)));
}

TEST_F(StateSyncTest, OptimizersWithAPast) {
  for (const auto& [name, make] : makers()) {
    SCOPED_TRACE(name);
    const int root = last_rank();
    // Of another length on each rank: as long as 0 steps, so without any state.
    const auto steps_of = [](int rank) { return 3 * ((rank + 1) % 3); };
    Trained own(make, kolo::rank(), steps_of(kolo::rank()));
    kolo::broadcast_parameters(*own.net, root);
    kolo::broadcast_optimizer_state(*own.optimizer, root);
    Trained oracle(make, root, steps_of(root));
    expect_to_go_on_as(own, oracle);
  }
}

TEST_F(StateSyncTest, FreshOptimizers) {
  for (const auto& [name, make] : makers()) {
    SCOPED_TRACE(name);
    Trained own(make, kolo::rank(), 0);
    kolo::broadcast_parameters(*own.net, 0);
    kolo::broadcast_optimizer_state(*own.optimizer, 0);
    Trained oracle(make, 0, 0);
    expect_to_go_on_as(own, oracle);
  }
}

TEST_F(StateSyncTest, AFreshRootAmongOthersWithAPast) {
  for (const auto& [name, make] : makers()) {
    SCOPED_TRACE(name);
    Trained own(make, kolo::rank(), 3 * kolo::rank());
    kolo::broadcast_parameters(*own.net, 0);
    kolo::broadcast_optimizer_state(*own.optimizer, 0);
    Trained oracle(make, 0, 0);
    expect_to_go_on_as(own, oracle);
  }
}

TEST_F(StateSyncTest, ACheckpointThatOnlyTheRootLoads) {
  for (const auto& [name, make] : makers()) {
    SCOPED_TRACE(name);
    // Read by whoever wrote it: state, not options.
    Trained before(make, 0, 5);
    std::stringstream net;
    std::stringstream optimizer;
    torch::save(before.net, net);
    torch::save(*before.optimizer, optimizer);
    Trained own(make, kolo::rank(), 0);
    if (kolo::rank() == 0) {
      torch::load(own.net, net);
      torch::load(*own.optimizer, optimizer);
    }
    kolo::broadcast_parameters(*own.net, 0);
    kolo::broadcast_optimizer_state(*own.optimizer, 0);
    expect_to_go_on_as(own, before);
  }
}

TEST_F(StateSyncTest, ThroughADistributedOptimizer) {
  // The learning rate is changed on the wrapper, on the inner one, or on each by another rank.
  for (const int where : {0, 1, 2}) {
    const int root = last_rank();
    Trained own(adam(), kolo::rank(), kolo::rank() + 1);
    DistributedOptimizer wrapper(*own.optimizer, own.net->named_parameters());
    const bool on_wrapper = where == 2 ? kolo::rank() % 2 == 0 : where == 0;
    auto& changed = on_wrapper ? wrapper.param_groups()[0] : own.optimizer->param_groups()[0];
    changed.options().set_lr(0.001 * (kolo::rank() + 1));
    kolo::broadcast_parameters(*own.net, root);
    kolo::broadcast_optimizer_state(wrapper, root);
    for (auto* optimizer : {&wrapper.param_groups(), &own.optimizer->param_groups()}) {
      EXPECT_EQ(optimizer->front().options().get_lr(), 0.001 * (root + 1)) << where;
    }
    for (int step = 0; step < 3; ++step) {
      wrapper.zero_grad();
      squared_error(own.net->forward(input(step, 0, kolo::rank())), step, 0, kolo::rank())
          .backward();
      wrapper.step();
      EXPECT_TRUE(identical_on_all_ranks(flat_parameters(*own.net))) << where;
    }
    EXPECT_EQ(wrapper.param_groups()[0].options().get_lr(), 0.001 * (root + 1)) << where;
  }
}

TEST_F(StateSyncTest, AllOptionsOfAllGroups) {
  Net net;
  const double mine = 0.1 * (kolo::rank() + 1);
  torch::optim::SGD optimizer(
      {torch::optim::OptimizerParamGroup(net->a->parameters(),
                                         std::make_unique<torch::optim::SGDOptions>(
                                             torch::optim::SGDOptions(mine).momentum(mine / 2))),
       torch::optim::OptimizerParamGroup(net->b->parameters())},
      torch::optim::SGDOptions(mine * 3).weight_decay(mine));
  kolo::broadcast_optimizer_state(optimizer, last_rank());
  const double expected = 0.1 * (last_rank() + 1);
  const auto& groups = optimizer.param_groups();
  const auto options = [&](std::size_t i) {
    return static_cast<const torch::optim::SGDOptions&>(groups[i].options());
  };
  EXPECT_EQ(options(0).lr(), expected);
  EXPECT_EQ(options(0).momentum(), expected / 2);
  EXPECT_EQ(options(1).lr(), expected * 3);
  EXPECT_EQ(options(1).weight_decay(), expected);
}

TEST_F(StateSyncTest, OptimizersThatCannotBeSaved) {
  Net net;
  torch::optim::LBFGS lbfgs(net->parameters(), 0.1);
  expect_error([&] { kolo::broadcast_optimizer_state(lbfgs, 0); },
               {"only SGD, Adam, AdamW, RMSprop and Adagrad are supported"});
  DistributedOptimizer wrapper(lbfgs, net->named_parameters());
  expect_error([&] { kolo::broadcast_optimizer_state(wrapper, 0); }, {"only SGD"});
  expect_usable();
}

TEST_F(StateSyncTest, AnOptimizerThatCannotBeSavedOnOneRank) {
  Net net;
  torch::optim::LBFGS lbfgs(net->parameters(), 0.1);
  const OptimizerPtr plain = sgd()(net->parameters());
  torch::optim::Optimizer& own = kolo::rank() == last_rank() ? lbfgs : *plain;
  expect_error([&] { kolo::broadcast_optimizer_state(own, 0); },
               {"on rank " + std::to_string(last_rank()), "only SGD", "not torch::optim::LBFGS"});
  expect_usable();
}

TEST_F(StateSyncTest, OptimizersOfOtherKinds) {
  if (kolo::size() == 1) return;
  const auto make = [](int rank) { return rank == last_rank() ? adam() : sgd(); };
  for (const int root : {0, last_rank()}) {
    Trained own(make(kolo::rank()), kolo::rank(), 2);
    Trained oracle(make(kolo::rank()), kolo::rank(), 2);
    expect_error([&] { kolo::broadcast_optimizer_state(*own.optimizer, root); },
                 {"kind", "torch::optim::SGD on rank 0",
                  "torch::optim::Adam on rank " + std::to_string(last_rank())});
    // It has its state still.
    expect_to_go_on_as(own, oracle);
  }
  expect_usable();
}

TEST_F(StateSyncTest, OptimizersOfOtherParameters) {
  if (kolo::size() == 1) return;
  torch::nn::Linear model(3, kolo::rank() == last_rank() ? 4 : 2);
  torch::optim::SGD optimizer(model->parameters(), 0.1);
  expect_error([&] { kolo::broadcast_optimizer_state(optimizer, 0); },
               {"parameter groups differ", "[2, 3] on rank 0",
                "[4, 3] on rank " + std::to_string(last_rank())});
  expect_usable();
}

}  // namespace
}  // namespace kolo::testing
