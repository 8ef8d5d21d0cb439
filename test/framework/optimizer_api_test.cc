// DistributedOptimizer beyond its loop: options, state, process sets, numbers about itself.

#include <chrono>
#include <future>
#include <sstream>
#include <thread>

#include "framework/training.h"

namespace kolo::testing {
namespace {

class OptimizerApiTest : public FrameworkTest {};

void backward(Net& net, int step) {
  squared_error(net->forward(input(step, 0, kolo::rank())), step, 0, kolo::rank()).backward();
}

/// A function that knows nothing of Kolo.
void train(Net& net, torch::optim::Optimizer& optimizer, int steps, int first = 0) {
  for (int step = first; step < first + steps; ++step) {
    optimizer.zero_grad();
    backward(net, step);
    optimizer.step();
  }
}

/// As train(), in one process.
void train_serially(Net& net, torch::optim::Optimizer& optimizer, int steps, int first = 0) {
  for (int step = first; step < first + steps; ++step) {
    optimizer.zero_grad();
    for (int rank = 0; rank < kolo::size(); ++rank) {
      const auto loss = squared_error(net->forward(input(step, 0, rank)), step, 0, rank);
      (loss / kolo::size()).backward();
    }
    optimizer.step();
  }
}

Net make_net() {
  torch::manual_seed(3);
  return Net();
}

void expect_same(const Net& a, const Net& b) {
  EXPECT_LT(relative_difference(flat_parameters(*a), flat_parameters(*b)), 1e-10);
}

torch::optim::SGDOptions& sgd_options(torch::optim::Optimizer& optimizer) {
  return static_cast<torch::optim::SGDOptions&>(optimizer.param_groups()[0].options());
}

TEST_F(OptimizerApiTest, SchedulersWorkOnTheWrapper) {
  Net net = make_net();
  Net oracle = make_net();
  const OptimizerPtr inner = sgd()(net->parameters());
  const OptimizerPtr plain = sgd()(oracle->parameters());
  DistributedOptimizer wrapper(*inner, net->named_parameters());
  torch::optim::StepLR schedule(wrapper, 2, 0.5);
  torch::optim::StepLR plain_schedule(*plain, 2, 0.5);
  for (int step = 0; step < 8; ++step) {
    train(net, wrapper, 1, step);
    schedule.step();
    train_serially(oracle, *plain, 1, step);
    plain_schedule.step();
  }
  expect_same(net, oracle);
  EXPECT_LT(sgd_options(*plain).lr(), 0.1);
  EXPECT_EQ(sgd_options(wrapper).lr(), sgd_options(*plain).lr());
}

TEST_F(OptimizerApiTest, OptionsOfEitherAreTheOnesUsed) {
  Net net = make_net();
  Net oracle = make_net();
  const OptimizerPtr inner = sgd()(net->parameters());
  const OptimizerPtr plain = sgd()(oracle->parameters());
  DistributedOptimizer wrapper(*inner, net->named_parameters());
  const std::vector<std::function<void(torch::optim::Optimizer&)>> changes = {
      [](auto& optimizer) { sgd_options(optimizer).lr(0.02); },
      [](auto& optimizer) { sgd_options(optimizer).momentum(0.5); },
      [](auto& optimizer) { sgd_options(optimizer).nesterov(true); },
      [](auto& optimizer) { sgd_options(optimizer).weight_decay(0.2); },
      [](auto& optimizer) { sgd_options(optimizer).lr(0.07).momentum(0.8); }};
  for (std::size_t i = 0; i < changes.size(); ++i) {
    if (i % 2 == 0) changes[i](wrapper);
    if (i % 2 == 1) changes[i](*inner);
    changes[i](*plain);
    train(net, wrapper, 3);
    train_serially(oracle, *plain, 3);
    EXPECT_TRUE(sgd_options(wrapper) == sgd_options(*plain)) << i;
    EXPECT_TRUE(sgd_options(*inner) == sgd_options(*plain)) << i;
  }
  expect_same(net, oracle);
}

TEST_F(OptimizerApiTest, OptionsOfEachGroupAreItsOwn) {
  Net net = make_net();
  Net oracle = make_net();
  const auto make = [](Net& of) {
    return torch::optim::SGD(
        {torch::optim::OptimizerParamGroup(of->a->parameters(),
                                           std::make_unique<torch::optim::SGDOptions>(0.5)),
         torch::optim::OptimizerParamGroup(of->c->parameters())},
        torch::optim::SGDOptions(0.01));
  };
  torch::optim::SGD inner = make(net);
  torch::optim::SGD plain = make(oracle);
  DistributedOptimizer wrapper(inner, net->named_parameters());
  train(net, wrapper, 3);
  train_serially(oracle, plain, 3);
  wrapper.param_groups()[1].options().set_lr(0.3);
  plain.param_groups()[1].options().set_lr(0.3);
  train(net, wrapper, 3);
  train_serially(oracle, plain, 3);
  expect_same(net, oracle);
}

TEST_F(OptimizerApiTest, SavedStateGoesOnWhereItWas) {
  Net net = make_net();
  const OptimizerPtr inner = adam()(net->parameters());
  DistributedOptimizer wrapper(*inner, net->named_parameters());
  train(net, wrapper, 4);
  std::stringstream saved;
  torch::save(wrapper, saved);
  Net copy = make_net();
  {
    const torch::NoGradGuard no_grad;
    for (std::size_t i = 0; i < net->parameters().size(); ++i) {
      copy->parameters()[i].copy_(net->parameters()[i]);
    }
  }
  const OptimizerPtr copy_inner = adam()(copy->parameters());
  DistributedOptimizer copy_wrapper(*copy_inner, copy->named_parameters());
  torch::load(copy_wrapper, saved);
  train(net, wrapper, 4, 4);
  train(copy, copy_wrapper, 4, 4);
  EXPECT_TRUE(identical(flat_parameters(*net), flat_parameters(*copy)));

  // What was saved is the inner optimizer's.
  saved.seekg(0);
  const OptimizerPtr plain = adam()(copy->parameters());
  torch::load(*plain, saved);
  EXPECT_EQ(plain->state().size(), inner->state().size());
}

TEST_F(OptimizerApiTest, TheInnerOptimizerMayBeWrappedAnew) {
  Net net = make_net();
  Net oracle = make_net();
  const OptimizerPtr inner = sgd()(net->parameters());
  const OptimizerPtr plain = sgd()(oracle->parameters());
  for (int i = 0; i < 3; ++i) {
    DistributedOptimizer wrapper(*inner, net->named_parameters());
    EXPECT_EQ(&wrapper.inner(), inner.get());
    train(net, wrapper, 2);
    train_serially(oracle, *plain, 2);
  }
  expect_same(net, oracle);
}

TEST_F(OptimizerApiTest, BroadcastBeforeTheFirstStepMakesRanksAlike) {
  torch::manual_seed(static_cast<std::uint64_t>(kolo::rank()));
  Net net;
  const OptimizerPtr inner = sgd()(net->parameters());
  DistributedOptimizer wrapper(*inner, net->named_parameters());
  kolo::broadcast_parameters(*net, kolo::size() - 1);
  train(net, wrapper, 3);
  torch::manual_seed(static_cast<std::uint64_t>(kolo::size() - 1));
  Net oracle;
  const OptimizerPtr plain = sgd()(oracle->parameters());
  train_serially(oracle, *plain, 3);
  expect_same(net, oracle);
}

TEST_F(OptimizerApiTest, Float32TrainsAlike) {
  Net net = make_net();
  net->to(torch::kFloat32);
  const OptimizerPtr inner = sgd()(net->parameters());
  DistributedOptimizer wrapper(*inner, net->named_parameters());
  const auto loss = [](Net& of, int step, int rank) {
    return of->forward(input(step, 0, rank).to(torch::kFloat32)).pow(2).mean();
  };
  Net oracle = make_net();
  oracle->to(torch::kFloat32);
  const OptimizerPtr plain = sgd()(oracle->parameters());
  for (int step = 0; step < 20; ++step) {
    wrapper.zero_grad();
    loss(net, step, kolo::rank()).backward();
    wrapper.step();
    plain->zero_grad();
    for (int rank = 0; rank < kolo::size(); ++rank) {
      (loss(oracle, step, rank) / kolo::size()).backward();
    }
    plain->step();
    EXPECT_TRUE(identical_on_all_ranks(flat_parameters(*net)));
  }
  EXPECT_LT(relative_difference(flat_parameters(*net), flat_parameters(*oracle)), 1e-6);
}

/// Batches of several samples per rank against one batch of them all.
TEST_F(OptimizerApiTest, AConvolutionOnOneBatchOfAllRanks) {
  const auto make = [] {
    torch::manual_seed(5);
    torch::nn::Sequential model(torch::nn::Conv2d(torch::nn::Conv2dOptions(3, 4, 3).padding(1)),
                                torch::nn::ReLU(), torch::nn::MaxPool2d(2), torch::nn::Flatten(),
                                torch::nn::Linear(4 * 4 * 4, 5));
    model->to(device(), torch::kFloat64);
    // Gradients that are not contiguous.
    for (torch::Tensor& parameter : model->parameters()) {
      if (parameter.dim() != 4) continue;
      parameter.set_data(parameter.detach().contiguous(torch::MemoryFormat::ChannelsLast));
    }
    return model;
  };
  torch::nn::Sequential model = make();
  torch::nn::Sequential oracle = make();
  const OptimizerPtr inner = adam()(model->parameters());
  const OptimizerPtr plain = adam()(oracle->parameters());
  DistributedOptimizer wrapper(*inner, model->named_parameters());
  for (int step = 0; step < 20; ++step) {
    const torch::Tensor images = random({kolo::size(), 2, 3, 8, 8}, {step});
    const torch::Tensor labels =
        (random({kolo::size(), 2}, {step, 1}).abs() * 2).clamp(0, 4).to(torch::kInt64);
    wrapper.zero_grad();
    torch::cross_entropy_loss(model->forward(images[kolo::rank()]), labels[kolo::rank()])
        .backward();
    wrapper.step();
    plain->zero_grad();
    torch::cross_entropy_loss(oracle->forward(images.flatten(0, 1)), labels.flatten()).backward();
    plain->step();
    EXPECT_TRUE(identical_on_all_ranks(flat_parameters(*model)));
  }
  EXPECT_LT(relative_difference(flat_parameters(*model), flat_parameters(*oracle)), 1e-10);
}

TEST_F(OptimizerApiTest, OtherReduceOps) {
  for (const ReduceOp op : {ReduceOp::Sum, ReduceOp::Max}) {
    Net net = make_net();
    const OptimizerPtr inner = sgd()(net->parameters());
    DistributedOptimizer wrapper(*inner, net->named_parameters(), {.op = op});
    for (int step = 0; step < 2; ++step) {
      wrapper.zero_grad();
      backward(net, step);
      std::vector<torch::Tensor> locals;
      for (int rank = 0; rank < kolo::size(); ++rank) {
        const auto loss = squared_error(net->forward(input(step, 0, rank)), step, 0, rank);
        locals.push_back(torch::autograd::grad({loss}, {net->b->weight})[0]);
      }
      const torch::Tensor all = torch::stack(locals);
      const torch::Tensor expected = op == ReduceOp::Sum ? all.sum(0) : std::get<0>(all.max(0));
      EXPECT_LT(relative_difference(net->b->weight.grad(), expected), 1e-12);
    }
  }
}

TEST_F(OptimizerApiTest, AProcessSetTrainsAModelOfItsOwn) {
  std::vector<int> even;
  std::vector<int> odd;
  for (int rank = 0; rank < kolo::size(); ++rank) (rank % 2 == 0 ? even : odd).push_back(rank);
  if (odd.empty()) odd = even;
  const ProcessSet evens = kolo::add_process_set(even);
  (void)kolo::add_process_set(odd);
  Net net = make_net();
  const OptimizerPtr inner = sgd()(net->parameters());
  if (kolo::rank() % 2 == 0) {
    DistributedOptimizer wrapper(*inner, net->named_parameters(), {.process_set = evens});
    backward(net, 0);
    torch::Tensor expected = torch::zeros({7, 7}, there(torch::kFloat64));
    for (const int rank : even) {
      const auto loss = squared_error(net->forward(input(0, 0, rank)), 0, 0, rank);
      expected += torch::autograd::grad({loss}, {net->b->weight})[0];
    }
    expected /= static_cast<double>(even.size());
    EXPECT_LT(relative_difference(net->b->weight.grad(), expected), 1e-12);
  }
  // All ranks agree on the next one, although only some have made the one before.
  net->zero_grad();
  DistributedOptimizer wrapper(*inner, net->named_parameters());
  backward(net, 0);
  EXPECT_TRUE(identical_on_all_ranks(net->b->weight.grad()));
}

// Each backward reaches one set's optimizer alone, so no thread waits for the other. Which of them
// is ahead differs between ranks; the first groups are under way while backward runs.
TEST_F(OptimizerApiTest, TwoSetsOfTheSameRanksInTwoThreads) {
  const auto make = [] {
    torch::manual_seed(3);
    torch::nn::Sequential net(torch::nn::Linear(5, 300), torch::nn::Tanh(),
                              torch::nn::Linear(300, 300), torch::nn::Tanh(),
                              torch::nn::Linear(300, 300), torch::nn::Tanh(),
                              torch::nn::Linear(300, 300), torch::nn::Tanh(),
                              torch::nn::Linear(300, 3));
    net->to(device(), torch::kFloat64);
    return net;
  };
  const auto backward = [](torch::nn::Sequential& net, int step, int thread, int rank, int share) {
    const torch::Tensor output = net->forward(input(step, thread, rank));
    (squared_error(output, step, thread, rank) / share).backward();
  };
  constexpr int steps = 10;
  const ProcessSet sets[] = {kolo::add_process_set(all_ranks()),
                             kolo::add_process_set(all_ranks())};
  torch::nn::Sequential nets[] = {make(), make()};
  const auto train = [&](int thread) {
    torch::nn::Sequential& net = nets[thread];
    const OptimizerPtr inner = sgd()(net->parameters());
    DistributedOptimizer optimizer(*inner, net->named_parameters(), {.process_set = sets[thread]});
    for (int step = 0; step < steps; ++step) {
      if ((kolo::rank() + step) % 2 == thread)
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
      optimizer.zero_grad();
      backward(net, step, thread, kolo::rank(), 1);
      optimizer.step();
    }
  };
  std::future<void> other = std::async(std::launch::async, train, 1);
  train(0);
  other.get();
  for (const int thread : {0, 1}) {
    torch::nn::Sequential oracle = make();
    const OptimizerPtr plain = sgd()(oracle->parameters());
    for (int step = 0; step < steps; ++step) {
      plain->zero_grad();
      for (const int rank : all_ranks()) backward(oracle, step, thread, rank, kolo::size());
      plain->step();
    }
    const torch::Tensor trained = flat_parameters(*nets[thread]);
    EXPECT_LT(relative_difference(trained, flat_parameters(*oracle)), 1e-10) << thread;
    EXPECT_TRUE(identical_on_all_ranks(trained)) << thread;
  }
}

TEST_F(OptimizerApiTest, SaysHowLongItHasWaited) {
  Net net = make_net();
  const OptimizerPtr inner = sgd()(net->parameters());
  DistributedOptimizer wrapper(*inner, net->named_parameters());
  EXPECT_EQ(wrapper.exposed_seconds(), 0);
  double last = 0;
  for (int step = 0; step < 3 && kolo::size() > 1; ++step) {
    train(net, wrapper, 1);
    EXPECT_GT(wrapper.exposed_seconds(), last);
    last = wrapper.exposed_seconds();
    // The mean of the losses as well.
    wrapper.step([&] {
      wrapper.zero_grad();
      const auto loss =
          squared_error(net->forward(input(step, 0, kolo::rank())), step, 0, kolo::rank());
      loss.backward();
      last = wrapper.exposed_seconds();
      return loss;
    });
    EXPECT_GT(wrapper.exposed_seconds(), last);
    last = wrapper.exposed_seconds();
  }
}

// ---- where gradients lie ----

TEST_F(OptimizerApiTest, GradientsHaveTheLayoutOfTheirParameters) {
  torch::nn::Conv2d layer(torch::nn::Conv2dOptions(2, 3, 5));
  layer->to(device());
  layer->weight.set_data(layer->weight.contiguous(torch::MemoryFormat::ChannelsLast));
  torch::optim::SGD inner(layer->parameters(), 0.1);
  DistributedOptimizer optimizer(inner, layer->named_parameters());
  for (int step = 0; step < 4; ++step) {
    const torch::Tensor x = random({2, 2, 7, 7}, {step, kolo::rank()}, torch::kFloat32);
    const torch::Tensor own = torch::autograd::grad({layer(x).pow(2).sum()}, {layer->weight})[0];
    optimizer.zero_grad();
    layer(x).pow(2).sum().backward();
    EXPECT_EQ(layer->weight.grad().strides(), layer->weight.strides());
    const torch::Tensor mean = torch::stack(gather(own.contiguous())).mean(0);
    EXPECT_LT(relative_difference(layer->weight.grad(), mean), 1e-6);
    optimizer.step();
  }
}

}  // namespace
}  // namespace kolo::testing
