// What a program does around DistributedOptimizer, and may do with any other optimizer.

#include <optional>
#include <sstream>

#include "framework/optimizer_errors.h"

namespace kolo::testing {
namespace {

class WrappingTest : public OptimizerErrorsTest {
 protected:
  /// The mean of the ranks' gradients, by LibTorch alone.
  torch::Tensor mean_gradient(const torch::Tensor& parameter, int step) {
    return torch::stack(gather(torch::autograd::grad({loss(step)}, {parameter})[0])).mean(0);
  }
};

// ---- parameters that change ----

TEST_F(WrappingTest, ParametersThatAreLoadedLater) {
  std::stringstream checkpoint;
  torch::save(net_, checkpoint);
  const torch::Tensor saved = flat_parameters(*net_).clone();
  DistributedOptimizer optimizer(*sgd_, net_->named_parameters());
  for (int time = 0; time < 2; ++time) {
    expect_right_training(optimizer);
    checkpoint.clear();
    checkpoint.seekg(0);
    torch::load(net_, checkpoint);
    EXPECT_TRUE(identical(flat_parameters(*net_), saved));
    // backward() gives averages, the first time as well.
    for (int step = 0; step < 5; ++step) {
      const torch::Tensor mean = mean_gradient(net_->b->weight, step);
      optimizer.zero_grad();
      loss(step).backward();
      EXPECT_LT(relative_difference(net_->b->weight.grad(), mean), 1e-12);
      optimizer.step();
    }
  }
  expect_right_training(optimizer);
}

TEST_F(WrappingTest, APartOfTheParametersIsLoadedLater) {
  DistributedOptimizer optimizer(*sgd_, net_->named_parameters());
  expect_right_training(optimizer);
  std::stringstream checkpoint;
  torch::save(net_->b, checkpoint);
  torch::load(net_->b, checkpoint);
  expect_right_training(optimizer);
}

TEST_F(WrappingTest, SumsOfParametersThatAreLoadedLater) {
  DistributedOptimizer optimizer(*sgd_, net_->named_parameters(), {.op = ReduceOp::Sum});
  loss().backward();
  std::stringstream checkpoint;
  torch::save(net_, checkpoint);
  torch::load(net_, checkpoint);
  expect_error([&] { loss().backward(); }, {"second backward", "Sum", "zero_grad()"});
  optimizer.zero_grad();
  const torch::Tensor mean = mean_gradient(net_->c->bias, 0);
  loss().backward();
  EXPECT_LT(relative_difference(net_->c->bias.grad(), mean * kolo::size()), 1e-12);
}

/// By set_(), of which autograd learns; after set_data() LibTorch's own check comes first.
TEST_F(WrappingTest, AParameterThatIsResizedNeedsANewWrapper) {
  for (const bool by_data : {false, true}) {
    torch::Tensor w = random({10, 4}, {1}).requires_grad_();
    torch::optim::SGD sgd({w}, 0.1);
    auto optimizer = std::make_unique<DistributedOptimizer>(sgd);
    const auto step = [&] {
      w.mutable_grad() = torch::Tensor();
      (w.pow(2).sum() * (kolo::rank() + 1)).backward();
      optimizer->step();
    };
    step();
    const torch::Tensor larger = torch::cat({w.detach(), w.detach().slice(0, 0, 5)});
    if (by_data) {
      w.set_data(larger);
      EXPECT_THROW(step(), std::exception);
    } else {
      const torch::NoGradGuard no_grad;
      w.set_(larger);
      const torch::AutoGradMode with_grad(true);
      expect_error(step, {"'optimizer", "group 0 parameter 0' was converted, moved or resized",
                          "from Double [10, 4]", "to Double [15, 4]", "wrap it anew"});
    }
    optimizer.reset();
    optimizer = std::make_unique<DistributedOptimizer>(sgd);
    const torch::Tensor expected = w.detach() * (1 - 0.1 * (kolo::size() + 1));
    step();
    EXPECT_LT(relative_difference(w.detach(), expected), 1e-12);
  }
}

TEST_F(WrappingTest, SparseGradientsBecomeDense) {
  const auto make = [](bool sparse) {
    torch::manual_seed(7);
    torch::nn::Embedding table(torch::nn::EmbeddingOptions(10, 3).sparse(sparse));
    table->to(device(), torch::kFloat64);
    return table;
  };
  const auto loss_of = [](torch::nn::Embedding& table, int step, int rank) {
    // Rows that a rank alone uses, that several use, and one twice.
    const torch::Tensor rows = torch::tensor({step % 10, rank % 10, rank % 10}, there(torch::kInt64));
    return table->forward(rows).pow(2).sum();
  };
  torch::nn::Embedding table = make(true);
  torch::nn::Embedding oracle = make(false);
  torch::optim::SGD inner(table->parameters(), torch::optim::SGDOptions(0.1).momentum(0.9));
  torch::optim::SGD plain(oracle->parameters(), torch::optim::SGDOptions(0.1).momentum(0.9));
  DistributedOptimizer optimizer(inner, table->named_parameters());
  for (int step = 0; step < 6; ++step) {
    optimizer.zero_grad();
    loss_of(table, step, kolo::rank()).backward();
    EXPECT_FALSE(table->weight.grad().is_sparse());
    optimizer.step();
    plain.zero_grad();
    for (const int rank : all_ranks()) (loss_of(oracle, step, rank) / kolo::size()).backward();
    plain.step();
  }
  EXPECT_LT(relative_difference(table->weight.detach(), oracle->weight.detach()), 1e-12);
  EXPECT_TRUE(identical_on_all_ranks(table->weight.detach()));
}

// ---- names ----

TEST_F(WrappingTest, ModulesWhoseNamesCollide) {
  const auto parameters = [&] {
    std::vector<torch::Tensor> all = net_->a->parameters();
    for (const torch::Tensor& parameter : net_->b->parameters()) all.push_back(parameter);
    for (const torch::Tensor& parameter : net_->c->parameters()) all.push_back(parameter);
    return all;
  };
  torch::optim::SGD sgd(parameters(), 0.1);
  {
    DistributedOptimizer optimizer(
        sgd, {net_->a->named_parameters(), net_->b->named_parameters(), net_->c->named_parameters()});
    expect_right_training(optimizer);
    expect_error([&] { DistributedOptimizer(*sgd_, {net_->named_parameters()}); },
                 {"parameter 'a.weight' already belongs to another"});
    expect_error(
        [&] {
          DistributedOptimizer(sgd, {net_->b->named_parameters(), net_->a->named_parameters(),
                                     net_->c->named_parameters()});
        },
        {"parameter 'module1.weight' already belongs to another", "call reset()"});
  }
  DistributedOptimizer optimizer(sgd);
  expect_right_training(optimizer);
}

TEST_F(WrappingTest, NumbersServeWhereThereAreNoNames) {
  DistributedOptimizer optimizer(*sgd_, {.backward_passes_per_step = 1});
  expect_right_training(optimizer);
  expect_error([&] { DistributedOptimizer{*sgd_}; },
               {"'group 0 parameter 0' already belongs to another"});
}

TEST_F(WrappingTest, ANameForMessages) {
  DistributedOptimizer optimizer(*sgd_, {.op = ReduceOp::Sum, .name = "critic"});
  loss().backward();
  expect_error([&] { loss().backward(); }, {"'critic/group 0 parameter", "second backward"});
  for (const std::string& name : {std::string("two\nlines"), std::string(101, 'x')}) {
    expect_error([&] { DistributedOptimizer(*sgd_, {.name = name}); },
                 {"DistributedOptimizerOptions::name", "at most 100 characters"});
  }
}

TEST_F(WrappingTest, AnotherNameOnARank) {
  if (alone_) return;
  DistributedOptimizerOptions options;
  options.name = kolo::rank() == 1 ? "critic" : "actor";
  expect_error([&] { DistributedOptimizer(*sgd_, options); },
               {"name 'actor' on rank 0", "name 'critic' on rank 1"});
}

// ---- state ----

class StateThroughWrapperTest : public WrappingTest {
 protected:
  void step(int step) {
    wrapper_.zero_grad();
    loss(step).backward();
    wrapper_.step();
  }

  static std::int64_t steps_of(torch::optim::OptimizerParamState& state) {
    return static_cast<torch::optim::AdamParamState&>(state).step();
  }

  const OptimizerPtr adam_ = adam()(net_->parameters());
  DistributedOptimizer wrapper_{*adam_};
  torch::optim::Optimizer& seen_ = wrapper_;
};

TEST_F(StateThroughWrapperTest, IsTheInnerOptimizers) {
  EXPECT_TRUE(seen_.state().empty());
  step(0);
  step(1);
  // `spare` has no gradient.
  ASSERT_EQ(seen_.state().size(), 6);
  ASSERT_EQ(adam_->state().size(), 6);
  for (auto& [key, state] : seen_.state()) {
    EXPECT_EQ(state.get(), adam_->state().at(key).get());
    EXPECT_EQ(steps_of(*state), 2);
    static_cast<torch::optim::AdamParamState&>(*state).step(40);
  }
  step(2);
  for (auto& [key, state] : adam_->state()) EXPECT_EQ(steps_of(*state), 41);
}

TEST_F(StateThroughWrapperTest, IsClearedFromBothSides) {
  for (const bool in_wrapper : {true, false, true}) {
    step(0);
    step(1);
    (in_wrapper ? seen_ : *adam_).state().clear();
    step(2);
    ASSERT_EQ(seen_.state().size(), 6);
    for (auto& [key, state] : seen_.state()) {
      EXPECT_EQ(state.get(), adam_->state().at(key).get());
      EXPECT_EQ(steps_of(*state), 1);
    }
    seen_.state().clear();
    EXPECT_TRUE(wrapper_.inner().state().empty());
  }
}

TEST_F(StateThroughWrapperTest, LosesAndExchangesEntries) {
  step(0);
  const auto first = seen_.state().begin()->first;
  const auto second = std::next(seen_.state().begin())->first;
  seen_.state().erase(first);
  auto fresh = std::make_unique<torch::optim::AdamParamState>(
      static_cast<torch::optim::AdamParamState&>(*seen_.state().at(second)));
  fresh->step(70);
  seen_.state()[second] = std::move(fresh);
  EXPECT_EQ(wrapper_.inner().state().size(), 5);
  EXPECT_EQ(steps_of(*adam_->state().at(second)), 70);
  adam_->state().erase(second);
  (void)wrapper_.inner();
  EXPECT_EQ(seen_.state().size(), 4);
  step(1);
  EXPECT_EQ(seen_.state().size(), 6);
  EXPECT_EQ(steps_of(*seen_.state().at(first)), 1);
}

TEST_F(StateThroughWrapperTest, OutlivesTheWrapper) {
  {
    Net other;
    const OptimizerPtr inner = adam()(other->parameters());
    {
      DistributedOptimizer wrapper(*inner);
      other->forward(input(0, 0, kolo::rank())).sum().backward();
      wrapper.step();
    }
    EXPECT_EQ(inner->state().size(), 6);
    DistributedOptimizer again(*inner);
    EXPECT_EQ(static_cast<torch::optim::Optimizer&>(again).state().size(), 6);
    again.state().clear();
  }
  kolo::broadcast_optimizer_state(wrapper_, 0);
  step(0);
  kolo::broadcast_optimizer_state(wrapper_, last_rank());
  step(1);
  EXPECT_EQ(seen_.state().size(), 6);
}

// ---- handles ----

TEST_F(WrappingTest, HandlesThatAreEmptyAtFirst) {
  Work work;
  expect_error([&] { work.wait(); }, {"this kolo::Work is empty", "_async"});
  expect_error([&] { (void)work.done(); }, {"this kolo::Work is empty"});
  work = kolo::allreduce_async(torch::full({2}, kolo::rank(), there()), {.op = ReduceOp::Sum});
  EXPECT_EQ(work.result()[1].item<int>(), kolo::size() * (kolo::size() - 1) / 2);

  DistributedOptimizer optimizer(*sgd_);
  std::optional<DistributedOptimizer::NoSync> guard;
  for (int pass = 0; pass < 3; ++pass) {
    if (pass == 2) {
      guard.reset();
    } else {
      guard = optimizer.no_sync();
    }
    loss(pass).backward();
    const torch::Tensor& gradient = net_->c->bias.grad();
    EXPECT_EQ(identical_on_all_ranks(gradient), pass == 2 || alone_);
  }
  optimizer.step();
  optimizer.zero_grad();
  expect_right_training(optimizer);
}

}  // namespace
}  // namespace kolo::testing
