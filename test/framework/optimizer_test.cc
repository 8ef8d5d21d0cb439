// Loops that are right in one process, unchanged on several ranks.

#include <optional>

#include "framework/training.h"

namespace kolo::testing {
namespace {

class OptimizerTest : public FrameworkTest {};

using Modules = std::vector<std::shared_ptr<torch::nn::Module>>;

void plain(Training& run, int step) {
  run.optimizer().zero_grad();
  run.loss(step).backward();
  run.optimizer().step();
}

void undefine_gradients(Training& run) {
  for (torch::Tensor& parameter : run.net->parameters()) parameter.mutable_grad().reset();
}

TEST_F(OptimizerTest, Sgd) { expect_as_in_one_process({.body = plain}); }

TEST_F(OptimizerTest, Adam) {
  Loop loop{.body = plain};
  loop.optimizer = adam();
  expect_as_in_one_process(loop);
}

TEST_F(OptimizerTest, AdamW) {
  Loop loop{.body = plain};
  loop.optimizer = adamw();
  expect_as_in_one_process(loop);
}

// As a program without the wrapper would do it: an all-reduce for each gradient, each negotiated.
TEST_F(OptimizerTest, ThePlanGivesTheBitsOfSingleAllReduces) {
  if (device().is_cuda() && kolo::size() > 2) GTEST_SKIP() << "NCCL sums in an order of its own";
  const auto train = [](bool planned) {
    torch::manual_seed(3);
    Net net;
    net->to(torch::kFloat32);
    const OptimizerPtr inner = sgd()(net->parameters());
    std::optional<DistributedOptimizer> wrapper;
    if (planned) wrapper.emplace(*inner, net->named_parameters());
    for (int step = 0; step < 20; ++step) {
      inner->zero_grad();
      const torch::Tensor output = net->forward(input(step, 0, kolo::rank()).to(torch::kFloat32));
      torch::mse_loss(output, random({4, 3}, {step, kolo::rank()}, torch::kFloat32)).backward();
      if (planned) {
        wrapper->step();
        continue;
      }
      for (torch::Tensor& parameter : net->parameters()) {
        if (parameter.grad().defined()) kolo::allreduce_(parameter.mutable_grad());
      }
      inner->step();
    }
    return flat_parameters(*net);
  };
  EXPECT_TRUE(identical(train(true), train(false)));
}

TEST_F(OptimizerTest, SeveralBackwardsBeforeAStep) {
  expect_as_in_one_process({.body = [](Training& run, int step) {
    run.optimizer().zero_grad();
    for (int pass = 0; pass < 3; ++pass) run.loss(step, pass).backward();
    run.optimizer().step();
  }});
}

TEST_F(OptimizerTest, GradientsThatAreRarelyZeroed) {
  expect_as_in_one_process({.body = [](Training& run, int step) {
    if (step % 3 == 0) run.net->zero_grad();
    run.loss(step).backward();
    run.optimizer().step();
  }});
}

TEST_F(OptimizerTest, GradientsThatAreUndefinedByHand) {
  expect_as_in_one_process({.body = [](Training& run, int step) {
    undefine_gradients(run);
    run.loss(step).backward();
    run.optimizer().step();
  }});
}

TEST_F(OptimizerTest, GradientsThatGetOtherMemory) {
  expect_as_in_one_process({.body = [](Training& run, int step) {
    for (torch::Tensor& parameter : run.net->parameters()) {
      torch::Tensor& gradient = parameter.mutable_grad();
      if (gradient.defined()) gradient.set_data(torch::zeros_like(gradient));
    }
    run.loss(step).backward();
    run.optimizer().step();
  }});
}

TEST_F(OptimizerTest, GradientsThatAreDiscardedAfterBackward) {
  expect_as_in_one_process({.body = [](Training& run, int step) {
    run.loss(step, 1).backward();
    if (step % 2 == 0) run.net->zero_grad();
    if (step % 2 == 1) undefine_gradients(run);
    run.loss(step).backward();
    run.optimizer().step();
  }});
}

TEST_F(OptimizerTest, TwoStepsPerBackward) {
  expect_as_in_one_process({.body = [](Training& run, int step) {
    plain(run, step);
    run.optimizer().step();
  }});
}

TEST_F(OptimizerTest, ParametersThatSomeRanksUse) {
  Loop loop{.body = [](Training& run, int step) {
    undefine_gradients(run);
    run.mean([&](int rank) {
         // In turn: one rank, none, all but one.
         const bool chosen = (step + rank) % kolo::size() == 0;
         const bool used = step % 3 == 0 ? chosen : step % 3 == 1 ? false : !chosen;
         torch::Tensor hidden = torch::tanh(run.net->a(input(step, 0, rank)));
         hidden = used ? run.net->spare(hidden) : run.net->b(hidden);
         return squared_error(run.net->c(hidden), step, 0, rank);
       })
        .backward();
    run.optimizer().step();
  }};
  expect_as_in_one_process(loop);
  loop.optimizer = adam();
  expect_as_in_one_process(loop);
}

TEST_F(OptimizerTest, ALossThatReachesNoParameterOnOneRank) {
  expect_as_in_one_process({.body = [](Training& run, int step) {
    run.optimizer().zero_grad();
    run.mean([&](int rank) {
         if (rank == step % kolo::size())
           return torch::ones({}, there(torch::kFloat64)).requires_grad_();
         return squared_error(run.net->forward(input(step, 0, rank)), step, 0, rank);
       })
        .backward();
    run.optimizer().step();
  }});
}

TEST_F(OptimizerTest, NoSync) {
  expect_as_in_one_process({.body = [](Training& run, int step) {
    run.optimizer().zero_grad();
    run.without_sync([&] {
      for (int pass = 0; pass < 2; ++pass) run.loss(step, pass).backward();
    });
    run.loss(step, 2).backward();
    run.optimizer().step();
  }});
}

TEST_F(OptimizerTest, NoSyncOnly) {
  expect_as_in_one_process({.body = [](Training& run, int step) {
    run.optimizer().zero_grad();
    if (step % 2 == 0) run.loss(step, 0).backward();
    run.without_sync([&] { run.loss(step, 1).backward(); });
    run.optimizer().step();
  }});
}

TEST_F(OptimizerTest, NoSyncThatIsDiscarded) {
  expect_as_in_one_process({.body = [](Training& run, int step) {
    run.without_sync([&] {
      run.mean([&](int rank) {
           return run.net->spare(random({2, 7}, {step, rank})).sum();
         })
          .backward();
    });
    undefine_gradients(run);
    run.loss(step).backward();
    run.optimizer().step();
  }});
}

TEST_F(OptimizerTest, NoSyncWithParametersThatSomeRanksUse) {
  expect_as_in_one_process({.body = [](Training& run, int step) {
    undefine_gradients(run);
    run.without_sync([&] {
      run.mean([&](int rank) {
           auto& layer = rank == step % kolo::size() ? run.net->spare : run.net->b;
           return layer(random({2, 7}, {step, rank})).pow(2).mean();
         })
          .backward();
    });
    if (step % 2 == 0) run.loss(step).backward();
    run.optimizer().step();
  }});
}

TEST_F(OptimizerTest, BackwardPassesPerStep) {
  for (const int passes : {2, 3}) {
    // As many as announced, fewer, more.
    for (const int real : {passes, passes - 1, passes + 1}) {
      SCOPED_TRACE(::testing::Message() << real << " passes of " << passes);
      Loop loop{.body = [real](Training& run, int step) {
        run.optimizer().zero_grad();
        for (int pass = 0; pass < real; ++pass) run.loss(step, pass).backward();
        run.optimizer().step();
      }};
      loop.options.backward_passes_per_step = passes;
      loop.steps = 10;
      expect_as_in_one_process(loop);
    }
  }
}

TEST_F(OptimizerTest, SumOfLocallyAccumulatedGradients) {
  Loop loop{.body = [](Training& run, int step) {
    run.optimizer().zero_grad();
    if (step % 2 == 1) undefine_gradients(run);
    // In one process, the mean of as many times the loss.
    for (int pass = 0; pass < 2; ++pass) {
      torch::Tensor loss = run.loss(step, pass);
      if (!run.with_kolo()) loss = loss * kolo::size();
      loss.backward();
    }
    run.optimizer().step();
  }};
  loop.options = {.op = ReduceOp::Sum, .backward_passes_per_step = 2};
  expect_as_in_one_process(loop);
}

TEST_F(OptimizerTest, ClippingByNorm) {
  expect_as_in_one_process({.body = [](Training& run, int step) {
    run.optimizer().zero_grad();
    run.loss(step).backward();
    std::vector<torch::Tensor> used;
    for (const torch::Tensor& parameter : run.net->parameters()) {
      if (parameter.grad().defined()) used.push_back(parameter);
    }
    const double norm = torch::nn::utils::clip_grad_norm_(used, 0.05);
    EXPECT_GT(norm, 0.05);
    run.optimizer().step();
  }});
}

TEST_F(OptimizerTest, GeneratorAndDiscriminator) {
  Loop loop{.body = [](Training& run, int step) {
    auto& generator = run.net->a;
    auto& discriminator = run.net->c;
    const auto fake = [&](int rank) { return torch::tanh(generator(input(step, 0, rank))); };
    discriminator->zero_grad();
    run.mean([&](int rank) {
         return (discriminator(random({4, 7}, {step, rank})) - 1).pow(2).mean();
       })
        .backward();
    run.mean([&](int rank) { return discriminator(fake(rank).detach()).pow(2).mean(); }).backward();
    run.optimizer(1).step();
    // Leaves gradients in the discriminator, too.
    generator->zero_grad();
    run.mean([&](int rank) { return (discriminator(fake(rank)) - 1).pow(2).mean(); }).backward();
    run.optimizer(0).step();
  }};
  loop.parts = [](Net& net) { return Modules{net->a.ptr(), net->c.ptr()}; };
  expect_as_in_one_process(loop);
  loop.optimizer = adam();
  expect_as_in_one_process(loop);
}

TEST_F(OptimizerTest, SeveralOptimizersInOneBackward) {
  Loop loop{.body = [](Training& run, int step) {
    for (const std::size_t part : {0U, 1U, 2U}) run.optimizer(part).zero_grad();
    run.loss(step).backward();
    for (const std::size_t part : {2U, 0U, 1U}) run.optimizer(part).step();
  }};
  loop.parts = [](Net& net) { return Modules{net->a.ptr(), net->b.ptr(), net->c.ptr()}; };
  expect_as_in_one_process(loop);
}

TEST_F(OptimizerTest, TwoOptimizersWhoseGradientsComeInAnotherOrderOnOtherRanks) {
  Loop loop{.body = [](Training& run, int step) {
    for (const std::size_t part : {0U, 1U}) run.optimizer(part).zero_grad();
    run.mean([&](int rank) {
         const torch::Tensor x = random({4, 7}, {step, rank});
         if ((rank + step) % 2 == 0)
           return run.net->b(torch::tanh(run.net->spare(x))).pow(2).mean();
         return run.net->spare(torch::tanh(run.net->b(x))).pow(2).mean();
       })
        .backward();
    for (const std::size_t part : {0U, 1U}) run.optimizer(part).step();
  }};
  loop.parts = [](Net& net) { return Modules{net->b.ptr(), net->spare.ptr()}; };
  expect_as_in_one_process(loop);
}

TEST_F(OptimizerTest, Closure) {
  expect_as_in_one_process({.body = [](Training& run, int step) {
    run.optimizer().step([&] {
      run.optimizer().zero_grad();
      torch::Tensor loss = run.loss(step);
      loss.backward();
      return loss;
    });
  }});
}

TEST_F(OptimizerTest, LbfgsDecidesAlikeOnAllRanks) {
  Loop loop{.body = [](Training& run, int step) {
    run.optimizer().step([&] {
      run.optimizer().zero_grad();
      torch::Tensor loss = run.loss(step / 5);
      loss.backward();
      return loss;
    });
  }};
  loop.optimizer = [](std::vector<torch::Tensor> parameters) -> OptimizerPtr {
    return std::make_unique<torch::optim::LBFGS>(
        std::move(parameters),
        torch::optim::LBFGSOptions(0.5).max_iter(4).line_search_fn("strong_wolfe"));
  };
  loop.steps = 6;
  expect_as_in_one_process(loop);
}

TEST_F(OptimizerTest, ParametersThatAreFrozenAndThawed) {
  Loop loop{.body = [](Training& run, int step) {
    const auto freeze = [](torch::nn::Linear& layer, bool frozen) {
      for (torch::Tensor& parameter : layer->parameters()) parameter.set_requires_grad(!frozen);
    };
    freeze(run.net->a, step < 5);
    freeze(run.net->c, step >= 10 && step < 15);
    if (step == 10) undefine_gradients(run);
    plain(run, step);
  }};
  expect_as_in_one_process(loop);
}

TEST_F(OptimizerTest, ParametersThatAreFrozenWhenWrapped) {
  Loop loop{.body = [](Training& run, int step) {
    if (step == 7) {
      for (torch::Tensor& parameter : run.net->a->parameters()) parameter.set_requires_grad(true);
    }
    plain(run, step);
  }};
  loop.parts = [](Net& net) {
    for (torch::Tensor& parameter : net->a->parameters()) parameter.set_requires_grad(false);
    return Modules{net.ptr()};
  };
  expect_as_in_one_process(loop);
}

TEST_F(OptimizerTest, TiedParameters) {
  Loop loop{.body = [](Training& run, int step) {
    run.optimizer().zero_grad();
    run.mean([&](int rank) {
         const torch::Tensor hidden = run.net->b(torch::tanh(run.net->a(input(step, 0, rank))));
         return squared_error(run.net->c(hidden.mm(run.net->b->weight)), step, 0, rank);
       })
        .backward();
    run.optimizer().step();
  }};
  loop.parts = [](Net& net) {
    net->register_parameter("tied", net->b->weight);
    return Modules{net.ptr()};
  };
  expect_as_in_one_process(loop);
}

}  // namespace
}  // namespace kolo::testing
