// One rank does something else in one step: right numbers on all ranks, or an error on all, and never
// a parameter that was changed after it.

#include <chrono>
#include <cstdlib>
#include <ostream>
#include <random>
#include <string>
#include <thread>

#include "framework/training.h"

namespace kolo::testing {
namespace {

/// New groups are adopted after the fourth.
constexpr int kSteps = 6;

enum class Deviation {
  Late,
  SkipsALayer,
  FreezesALayer,
  OtherOrder,
  NoBackward,
  BackwardTwice,
  StepTwice,
  Throws,
};
constexpr int kDeviations = static_cast<int>(Deviation::Throws) + 1;

struct Scenario {
  explicit Scenario(std::uint64_t seed) : random(seed) {
    rank = static_cast<int>(random() % static_cast<unsigned>(kolo::size()));
    // Not in the last step: the others would not meet the rank again.
    step = static_cast<int>(random() % (kSteps - 1));
    kind = static_cast<Deviation>(random() % kDeviations);
    zeroes = random() % 2 == 0;
  }

  bool deviates(int at_step, int of_rank, Deviation deviation) const {
    return at_step == step && of_rank == rank && kind == deviation;
  }
  bool must_fail() const {
    return kind == Deviation::BackwardTwice || kind == Deviation::StepTwice ||
           kind == Deviation::Throws;
  }

  std::mt19937_64 random;
  int rank = 0;
  int step = 0;
  Deviation kind = Deviation::Late;
  /// Whether gradients become zero, or undefined, before each backward.
  bool zeroes = false;
};

std::ostream& operator<<(std::ostream& out, const Scenario& scenario) {
  return out << "deviation " << static_cast<int>(scenario.kind) << " of rank " << scenario.rank
             << " in step " << scenario.step;
}

void set_frozen(Net& net, bool frozen) {
  for (torch::Tensor& parameter : net->b->parameters()) parameter.set_requires_grad(!frozen);
}

torch::Tensor loss_of(Net& net, const Scenario& scenario, int step, int rank) {
  const torch::Tensor first = torch::tanh(net->a(input(step, 0, rank)));
  if (scenario.deviates(step, rank, Deviation::SkipsALayer)) {
    return squared_error(net->c(first), step, 0, rank);
  }
  if (scenario.deviates(step, rank, Deviation::OtherOrder)) {
    // The same terms, summed up the other way round.
    const torch::Tensor bias = net->b->bias;
    return squared_error(net->c(torch::tanh(bias + torch::mm(first, net->b->weight.t()))), step, 0,
                         rank);
  }
  return squared_error(net->c(torch::tanh(net->b(first))), step, 0, rank);
}

void zero(Net& net, bool zeroes) {
  for (torch::Tensor& parameter : net->parameters()) {
    torch::Tensor& gradient = parameter.mutable_grad();
    if (zeroes && gradient.defined()) {
      gradient.zero_();
    } else {
      gradient.reset();
    }
  }
}

struct Bomb : torch::autograd::Function<Bomb> {
  static torch::Tensor forward(torch::autograd::AutogradContext* /*context*/,
                               const torch::Tensor& x) {
    return x.clone();
  }
  static torch::autograd::variable_list backward(
      torch::autograd::AutogradContext* /*context*/,
      const torch::autograd::variable_list& /*gradients*/) {
    throw Error("the bomb goes off");
  }
};

/// This rank's part of a step.
void run_step(Net& net, torch::optim::Optimizer& optimizer, const Scenario& scenario, int step) {
  const int rank = kolo::rank();
  const auto deviates = [&](Deviation kind) { return scenario.deviates(step, rank, kind); };
  zero(net, scenario.zeroes);
  if (deviates(Deviation::Late)) std::this_thread::sleep_for(std::chrono::milliseconds(5));
  set_frozen(net, deviates(Deviation::FreezesALayer));
  if (deviates(Deviation::Throws)) {
    net->c(torch::tanh(Bomb::apply(net->b(net->a(input(step, 0, rank)))))).sum().backward();
  } else if (!deviates(Deviation::NoBackward)) {
    loss_of(net, scenario, step, rank).backward();
    if (deviates(Deviation::BackwardTwice)) loss_of(net, scenario, step, rank).backward();
  }
  optimizer.step();
  if (deviates(Deviation::StepTwice)) optimizer.step();
}

/// The same without Kolo: the mean of all ranks' gradients.
void run_oracle_step(Net& net, torch::optim::Optimizer& optimizer, const Scenario& scenario,
                     int step) {
  zero(net, scenario.zeroes);
  for (int rank = 0; rank < kolo::size(); ++rank) {
    if (scenario.deviates(step, rank, Deviation::NoBackward)) continue;
    set_frozen(net, scenario.deviates(step, rank, Deviation::FreezesALayer));
    (loss_of(net, scenario, step, rank) / kolo::size()).backward();
    set_frozen(net, false);
  }
  optimizer.step();
}

std::uint64_t seeds() {
  const char* const text = std::getenv("KOLO_TEST_SEEDS");
  return text == nullptr ? 500 : std::stoul(text);
}

class DeviationsTest : public FrameworkTest {};

TEST_F(DeviationsTest, RightNumbersOrAnErrorOnAllRanks) {
  if (kolo::size() == 1) return;
  const std::uint64_t end = seeds();
  for (std::uint64_t seed = 0; seed < end && !HasFailure(); ++seed) {
    const Scenario scenario(seed);
    SCOPED_TRACE(::testing::Message() << "seed " << seed << ": " << scenario);
    torch::manual_seed(static_cast<std::int64_t>(seed));
    Net net;
    Net oracle;
    {
      const torch::NoGradGuard no_grad;
      for (std::size_t i = 0; i < net->parameters().size(); ++i) {
        oracle->parameters()[i].copy_(net->parameters()[i]);
      }
    }
    const OptimizerPtr inner = sgd()(net->parameters());
    const OptimizerPtr plain = sgd()(oracle->parameters());
    DistributedOptimizer optimizer(*inner, net->named_parameters());
    torch::Tensor parameters = flat_parameters(*net);
    bool failed = false;
    for (int step = 0; step < kSteps && !failed; ++step) {
      run_oracle_step(oracle, *plain, scenario, step);
      try {
        run_step(net, optimizer, scenario, step);
      } catch (const Error&) {
        failed = true;
        // A second step() that was refused came after a first one that was right.
        if (!scenario.deviates(step, kolo::rank(), Deviation::StepTwice)) {
          EXPECT_TRUE(identical(flat_parameters(*net), parameters));
        }
      }
      parameters = flat_parameters(*net);
    }
    EXPECT_EQ(failed, scenario.must_fail());
    if (scenario.must_fail()) continue;
    EXPECT_LT(relative_difference(parameters, flat_parameters(*oracle)), 1e-10);
    EXPECT_TRUE(identical_on_all_ranks(parameters));
  }
}

}  // namespace
}  // namespace kolo::testing
