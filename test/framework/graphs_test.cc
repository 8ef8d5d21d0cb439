// Graphs out of the ordinary: backward inside backward, double backward, collectives inside a
// graph.

#include <torch/csrc/autograd/variable.h>

#include <chrono>
#include <memory>
#include <thread>
#include <utility>

#include "framework/training.h"

namespace kolo::testing {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using Segment = std::function<torch::Tensor(const torch::Tensor&)>;

class GraphsTest : public FrameworkTest {};

/// Activation checkpointing: computes the segment again in backward, with a backward of its own.
struct Checkpoint : torch::autograd::Function<Checkpoint> {
  static torch::Tensor forward(AutogradContext* context, const torch::Tensor& x,
                               std::int64_t segment) {
    context->save_for_backward({x});
    context->saved_data["segment"] = segment;
    return (*reinterpret_cast<const Segment*>(segment))(x);
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const torch::AutoGradMode enable(true);
    const auto* segment = reinterpret_cast<const Segment*>(context->saved_data["segment"].toInt());
    const torch::Tensor x = context->get_saved_variables()[0].detach().requires_grad_();
    (*segment)(x).backward(gradients[0]);
    return {x.grad(), torch::Tensor()};
  }
};

/// `segment` must live until backward is over.
torch::Tensor checkpoint(const torch::Tensor& x, const Segment& segment) {
  return Checkpoint::apply(x, static_cast<std::int64_t>(reinterpret_cast<std::intptr_t>(&segment)));
}

/// Takes its time in backward, so that all-reduces that have begun get done meanwhile.
struct Pause : torch::autograd::Function<Pause> {
  static torch::Tensor forward(AutogradContext* /*context*/, const torch::Tensor& x) {
    return x.clone();
  }

  static variable_list backward(AutogradContext* /*context*/, const variable_list& gradients) {
    std::this_thread::sleep_for(std::chrono::milliseconds(30));
    return {gradients[0] * 1};
  }
};

constexpr int kPausedSteps = 4;

/// Does not end its backward before a parameter's gradient, of ones times (rank + 1), is the mean
/// of all ranks'.
struct AwaitMean : torch::autograd::Function<AwaitMean> {
  static torch::Tensor forward(AutogradContext* context, const torch::Tensor& x,
                               std::int64_t parameter) {
    context->saved_data["parameter"] = parameter;
    return x.clone();
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const auto& parameter =
        *reinterpret_cast<const torch::Tensor*>(context->saved_data["parameter"].toInt());
    const double mean = (kolo::size() + 1) / 2.0;
    while (parameter.grad()[-1].item<double>() != mean) std::this_thread::yield();
    return {gradients[0] * 1, torch::Tensor()};
  }
};

/// x less its mean over all samples of all ranks, as in SyncBatchNorm.
struct Centre : torch::autograd::Function<Centre> {
  static torch::Tensor forward(AutogradContext* /*context*/, const torch::Tensor& x) {
    return x - kolo::allreduce(x.mean(0));
  }

  static variable_list backward(AutogradContext* /*context*/, const variable_list& gradients) {
    return {gradients[0] - kolo::allreduce(gradients[0].mean(0))};
  }
};

TEST_F(GraphsTest, BackwardInsideBackwardBeforeAnyGradientOfTheOuterOne) {
  for (const int passes : {1, 2}) {
    Loop loop{.body = [passes](Training& run, int step) {
      run.optimizer().zero_grad();
      const Segment head = [&](const torch::Tensor& x) { return run.net->c(torch::tanh(x)); };
      for (int pass = 0; pass < passes; ++pass) {
        run.mean([&](int rank) {
             const torch::Tensor hidden = run.net->b(run.net->a(input(step, pass, rank)));
             return squared_error(checkpoint(hidden, head), step, pass, rank);
           })
            .backward();
      }
      run.optimizer().step();
    }};
    loop.options.backward_passes_per_step = passes;
    expect_as_in_one_process(loop);
  }
}

TEST_F(GraphsTest, BackwardInsideBackwardWithASharedParameter) {
  expect_as_in_one_process({.body = [](Training& run, int step) {
    run.optimizer().zero_grad();
    const Segment body = [&](const torch::Tensor& x) {
      return run.net->b(torch::tanh(run.net->spare(x)));
    };
    run.mean([&](int rank) {
         const torch::Tensor hidden = run.net->b(torch::tanh(run.net->a(input(step, 0, rank))));
         return squared_error(run.net->c(run.net->b(checkpoint(hidden, body))), step, 0, rank);
       })
        .backward();
    run.optimizer().step();
  }});
}

TEST_F(GraphsTest, ManyBackwardsInsideBackwardWithASharedParameter) {
  expect_as_in_one_process({.body = [](Training& run, int step) {
    run.optimizer().zero_grad();
    const Segment body = [&](const torch::Tensor& x) { return torch::tanh(run.net->b(x)); };
    run.mean([&](int rank) {
         torch::Tensor hidden = run.net->b(torch::tanh(run.net->a(input(step, 0, rank))));
         for (int i = 0; i < 3; ++i) hidden = checkpoint(hidden, body);
         return squared_error(run.net->c(hidden), step, 0, rank);
       })
        .backward();
    run.optimizer().step();
  }});
}

/// Two branches; the one that was made last is the first in backward.
torch::Tensor checkpointed_branch_after_plain_one(Training& run, int step, const Segment& body) {
  return run.mean([&](int rank) {
    const torch::Tensor hidden = torch::tanh(run.net->a(input(step, 0, rank)));
    const torch::Tensor checkpointed = checkpoint(hidden, body);
    const torch::Tensor plain = run.net->b(torch::tanh(run.net->a(input(step, 1, rank))));
    return squared_error(run.net->c(checkpointed + Pause::apply(plain)), step, 0, rank);
  });
}

TEST_F(GraphsTest, BackwardInsideBackwardAddsToAGradientOnTheWire) {
  Loop loop{.body = [](Training& run, int step) {
    run.optimizer().zero_grad();
    const Segment body = [&](const torch::Tensor& x) { return run.net->b(x); };
    checkpointed_branch_after_plain_one(run, step, body).backward();
    run.optimizer().step();
  }};
  loop.steps = kPausedSteps;
  expect_as_in_one_process(loop);
}

TEST_F(GraphsTest, BackwardInsideBackwardOnSomeRanksOnly) {
  Loop loop{.body = [](Training& run, int step) {
    run.optimizer().zero_grad();
    const Segment body = [&](const torch::Tensor& x) { return run.net->b(x); };
    run.mean([&](int rank) {
         const torch::Tensor hidden = torch::tanh(run.net->a(input(step, 0, rank)));
         torch::Tensor inner = hidden;
         if ((rank + step) % 2 == 0) inner = checkpoint(hidden, body);
         const torch::Tensor plain = run.net->b(torch::tanh(run.net->a(input(step, 1, rank))));
         return squared_error(run.net->c(inner + Pause::apply(plain)), step, 0, rank);
       })
        .backward();
    run.optimizer().step();
  }};
  loop.steps = kPausedSteps;
  expect_as_in_one_process(loop);
}

TEST_F(GraphsTest, ReducesWhileBackwardRuns) {
  if (device().is_cuda()) GTEST_SKIP() << "gradients are read while NCCL writes them";
  constexpr std::int64_t kAGroup = 300'000;
  torch::Tensor first = torch::ones({kAGroup}, torch::requires_grad());
  torch::Tensor last = torch::ones({kAGroup}, torch::requires_grad());
  torch::optim::SGD sgd(std::vector<torch::Tensor>{first, last}, 1.0);
  torch::OrderedDict<std::string, torch::Tensor> named;
  named.insert("first", first);
  named.insert("last", last);
  DistributedOptimizer optimizer(sgd, named);
  const auto place = static_cast<std::int64_t>(reinterpret_cast<std::intptr_t>(&last));
  (AwaitMean::apply(first, place) * last * (kolo::rank() + 1.0)).sum().backward();
  EXPECT_TRUE(identical(first.grad(), last.grad()));
}

TEST_F(GraphsTest, RetainedGraph) {
  expect_as_in_one_process({.body = [](Training& run, int step) {
    run.optimizer().zero_grad();
    const torch::Tensor loss = run.loss(step);
    loss.backward({}, /*retain_graph=*/true);
    loss.backward();
    run.optimizer().step();
  }});
}

TEST_F(GraphsTest, PenaltyOnGradientsOfGrad) {
  expect_as_in_one_process({.body = [](Training& run, int step) {
    run.optimizer().zero_grad();
    run.mean([&](int rank) {
         const torch::Tensor x = input(step, 0, rank).requires_grad_();
         const torch::Tensor loss = squared_error(run.net->forward(x), step, 0, rank);
         const auto slope = torch::autograd::grad({loss}, {x}, {}, /*retain_graph=*/true,
                                                  /*create_graph=*/true);
         return loss + 0.1 * slope[0].pow(2).sum();
       })
        .backward();
    run.optimizer().step();
  }});
}

TEST_F(GraphsTest, PenaltyOnGradientsOfBackward) {
  expect_as_in_one_process({.body = [](Training& run, int step) {
    run.optimizer().zero_grad();
    for (torch::Tensor& parameter : run.net->parameters()) parameter.mutable_grad().reset();
    run.loss(step).backward({}, /*retain_graph=*/true, /*create_graph=*/true);
    torch::Tensor penalty = torch::zeros({}, there(torch::kFloat64));
    for (torch::Tensor& parameter : run.net->parameters()) {
      if (!parameter.grad().defined()) continue;
      penalty = penalty + parameter.grad().pow(2).sum();
      parameter.mutable_grad().reset();
    }
    (run.loss(step, 1) + 0.01 * penalty).backward();
    run.optimizer().step();
  }});
}

TEST_F(GraphsTest, GradientsThatShareMemoryWithOthersOnTheirWay) {
  // What the view passes on is the very memory that the layer below gets its gradient in.
  Loop loop{.body = [](Training& run, int step) {
    run.optimizer().zero_grad();
    run.mean([&](int rank) {
         const torch::Tensor below = Pause::apply(run.net->b(random({7, 7}, {step, rank})));
         return (run.net->spare->weight.view({7, 7}) + below).pow(2).mean();
       })
        .backward();
    run.optimizer().step();
  }};
  loop.steps = kPausedSteps;
  expect_as_in_one_process(loop);
}

TEST_F(GraphsTest, GradientsThatShareMemoryWithEachOther) {
  expect_as_in_one_process({.body = [](Training& run, int step) {
    for (torch::Tensor& parameter : run.net->parameters()) parameter.mutable_grad().reset();
    run.mean([&](int rank) {
         const torch::Tensor sum = run.net->b->weight.view({7, 7}) + run.net->spare->weight;
         return torch::mm(random({7, 7}, {step, rank}), sum).pow(2).mean();
       })
        .backward();
    run.optimizer().step();
  }});
}

TEST_F(GraphsTest, GradientsThatTheProgramPassedIn) {
  Training run(true, sgd(), {},
               [](Net& net) { return std::vector<std::shared_ptr<torch::nn::Module>>{net.ptr()}; });
  const torch::Tensor given = random({49}, {kolo::rank()});
  const torch::Tensor copy = given.clone();
  run.net->b->weight.view({49}).backward(given);
  EXPECT_TRUE(identical(given, copy));
}

TEST_F(GraphsTest, GradientsThatAreViewsOfOneBuffer) {
  Training run(true, sgd(), {}, [](Net& net) {
    return std::vector<std::shared_ptr<torch::nn::Module>>{net->b.ptr()};
  });
  const torch::Tensor buffer = torch::zeros({56}, there(torch::kFloat64));
  run.net->b->weight.mutable_grad() = buffer.narrow(0, 0, 49).view({7, 7});
  run.net->b->bias.mutable_grad() = buffer.narrow(0, 49, 7);
  run.net->b(random({4, 7}, {kolo::rank()})).pow(2).mean().backward();
  EXPECT_TRUE(identical(run.net->b->bias.grad(), buffer.narrow(0, 49, 7)));
  EXPECT_TRUE(identical_on_all_ranks(buffer));
  EXPECT_GT(buffer.abs().min().item<double>(), 0);
}

/// Where autograd has stored a gradient, before Kolo looks at it.
class Stored : public torch::autograd::FunctionPostHook {
 public:
  Stored(torch::Tensor parameter, const void*& memory)
      : parameter_(std::move(parameter)), memory_(memory) {}

  variable_list operator()(const variable_list& outputs, const variable_list& /*inputs*/) override {
    memory_ = parameter_.grad().data_ptr();
    return outputs;
  }

 private:
  const torch::Tensor parameter_;
  const void*& memory_;
};

TEST_F(GraphsTest, AutogradStoresGradientsInTheirPlaces) {
  if (device().is_cuda()) GTEST_SKIP() << "on a GPU gradients move when their group starts";
  const torch::Tensor parameter = torch::ones({40, 3}).requires_grad_();
  const void* memory = nullptr;
  const auto accumulator = torch::autograd::impl::grad_accumulator(parameter);
  accumulator->add_post_hook(std::make_unique<Stored>(parameter, memory));
  torch::optim::SGD sgd({parameter}, 0.1);
  torch::OrderedDict<std::string, torch::Tensor> named;
  named.insert("parameter", parameter);
  kolo::DistributedOptimizer optimizer(sgd, named);
  // Before other groups are adopted, for which it moves.
  for (int step = 0; step < 3; ++step) {
    parameter.mutable_grad().reset();
    // Which autograd would take over, and which it would have to copy.
    const torch::Tensor given = random({40, 3}, {step, kolo::rank()}, torch::kFloat32);
    if (step % 2 == 0) {
      (parameter * given).sum().backward();
    } else {
      torch::autograd::backward({parameter}, {given});
    }
    EXPECT_EQ(memory, parameter.grad().data_ptr());
    torch::Tensor mean = torch::zeros({40, 3});
    for (const int rank : all_ranks()) mean += random({40, 3}, {step, rank}, torch::kFloat32);
    EXPECT_LT(relative_difference(parameter.grad(), mean / kolo::size()), 1e-6);
  }
}

// ---- collectives of the program among those of the optimizer ----

TEST_F(GraphsTest, BlockingAllreduceInForwardAndBackward) {
  expect_as_in_one_process({.body = [](Training& run, int step) {
    run.optimizer().zero_grad();
    const auto x_of = [&](int rank) { return run.net->a(input(step, 0, rank)); };
    const auto loss_of = [&](const torch::Tensor& centred, int rank) {
      return squared_error(run.net->c(torch::tanh(run.net->b(torch::tanh(centred)))), step, 0,
                           rank);
    };
    if (run.with_kolo()) {
      const torch::Tensor centred = Centre::apply(x_of(kolo::rank()));
      loss_of(Centre::apply(centred + 1), kolo::rank()).backward();
    } else {
      torch::Tensor mean = torch::zeros({7}, there(torch::kFloat64));
      for (int rank = 0; rank < kolo::size(); ++rank) mean = mean + x_of(rank).mean(0);
      run.mean([&](int rank) { return loss_of(x_of(rank) - mean / kolo::size(), rank); })
          .backward();
    }
    run.optimizer().step();
  }});
}

TEST_F(GraphsTest, CollectivesAtAnyPlaceOfAStep) {
  expect_as_in_one_process({.body = [](Training& run, int step) {
    run.optimizer().zero_grad();
    const torch::Tensor loss = run.loss(step);
    std::optional<Work> metric;
    if (run.with_kolo()) metric = kolo::allreduce_async(loss.detach(), {.name = "metric"});
    loss.backward();
    if (run.with_kolo()) {
      const auto word =
          kolo::broadcast(torch::full({2}, kolo::rank(), there(torch::kInt64)), kolo::size() - 1);
      EXPECT_EQ(word[1].item<int>(), kolo::size() - 1);
    }
    run.optimizer().step();
    if (run.with_kolo()) {
      double sum = 0;
      for (const torch::Tensor& one : gather(loss.detach())) sum += one.item<double>();
      EXPECT_NEAR(metric->result().item<double>(), sum / kolo::size(), 1e-12);
      if (step % 4 == 0) kolo::barrier();
    }
  }});
}

}  // namespace
}  // namespace kolo::testing
