// Ranks do something else in some steps of a run, with the first groups of gradients or with those
// that are adopted later: right numbers on all ranks, or an error on all, and never a parameter
// that was changed by what failed.

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <optional>
#include <ostream>
#include <random>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "framework/training.h"

namespace kolo::testing {
namespace {

/// In the first step after the fourth, groups are new.
constexpr int kAdopted = 4;
constexpr int kSteps = 8;

enum class Kind {
  Late,
  SkipsALayer,
  FreezesALayer,
  OtherOrder,
  NoBackward,
  GradientsByHand,
  Synchronizes,
  // From here on: of which a run has one at most, as it ends with the error.
  BackwardTwice,
  StepTwice,
  AddsAParameter,
  ChangesAShape,
  GradientOfAnotherShape,
  Throws,
  ReplacesAnAverage,
  AddsToAnAverage,
  ChangesAParameter,
  ChangesAnOption,
};
constexpr int kKinds = static_cast<int>(Kind::ChangesAnOption) + 1;

constexpr const char* kNames[kKinds] = {
    "is late",          "skips a layer",       "freezes a layer",    "uses layers in another order",
    "no backward",      "gradients by hand",   "synchronize()",      "backward twice",
    "step() twice",     "adds a parameter",    "changes shapes",     "another gradient",
    "throws",           "replaces an average", "adds to an average", "changes a parameter",
    "changes an option"};

/// Parameters are compared in the first steps: so many are left for what must be found there.
int last_step_of(Kind kind) {
  if (kind == Kind::AddsToAnAverage) return 1;  // found in the next one
  return kind == Kind::ChangesAParameter ? 2 : kSteps;
}

struct Deviation {
  Kind kind = Kind::Late;
  int rank = 0;
  int step = 0;

  bool may_fail() const { return kind >= Kind::BackwardTwice; }
};

std::ostream& operator<<(std::ostream& out, const Deviation& deviation) {
  return out << "; rank " << deviation.rank << " in step " << deviation.step << " "
             << kNames[static_cast<std::size_t>(deviation.kind)];
}

/// One to three deviations, each of another rank or in another step.
struct Scenario {
  explicit Scenario(std::uint64_t seed) {
    std::mt19937_64 random(seed);
    const auto below = [&random](int end) {
      return static_cast<int>(random() % static_cast<unsigned>(end));
    };
    zeroes = below(2) == 0;
    for (int left = 1 + below(3); left > 0;) {
      // Not in the last step: the others would not meet the rank again.
      const int step = below(2) == 0 ? below(kAdopted) : kAdopted + below(kSteps - 1 - kAdopted);
      const auto kind = static_cast<Kind>(below(kKinds));
      const Deviation next{kind, below(kolo::size()), std::min(step, last_step_of(kind))};
      const bool excluded = std::ranges::any_of(deviations, [&next](const Deviation& other) {
        return (other.rank == next.rank && other.step == next.step) ||
               (other.may_fail() && next.may_fail());
      });
      if (excluded) continue;
      deviations.push_back(next);
      --left;
    }
  }

  bool deviates(int step, int rank, Kind kind) const {
    return std::ranges::any_of(deviations, [&](const Deviation& deviation) {
      return deviation.kind == kind && deviation.rank == rank && deviation.step == step;
    });
  }

  /// Whether a rank has no backward in this step, and comes late, in step().
  bool has_latecomer(int step) const {
    return std::ranges::any_of(deviations, [step](const Deviation& deviation) {
      return deviation.step == step &&
             (deviation.kind == Kind::NoBackward || deviation.kind == Kind::GradientsByHand);
    });
  }

  /// What must end in an error. Two backwards need not: a rank whose backward reaches nothing takes
  /// part in both, and keeps all in step() meanwhile.
  std::optional<Deviation> failure() const {
    const auto found = std::ranges::find_if(deviations, &Deviation::may_fail);
    if (found == deviations.end()) return std::nullopt;
    if (found->kind == Kind::BackwardTwice && has_latecomer(found->step)) return std::nullopt;
    return *found;
  }

  std::vector<Deviation> deviations;
  /// Whether gradients become zero, or undefined, before each backward.
  bool zeroes = false;
};

std::ostream& operator<<(std::ostream& out, const Scenario& scenario) {
  for (const Deviation& deviation : scenario.deviations) out << deviation;
  return out;
}

// ---- one rank's part of a step ----

struct Bomb : torch::autograd::Function<Bomb> {
  static torch::Tensor forward(torch::autograd::AutogradContext* /*context*/,
                               const torch::Tensor& x) {
    return x.clone();
  }
  static torch::autograd::variable_list backward(
      torch::autograd::AutogradContext* /*context*/,
      const torch::autograd::variable_list& /*gradients*/) {
    throw std::runtime_error("the bomb goes off");
  }
};

torch::Tensor loss_of(Net& net, const Scenario& scenario, int step, int rank, int pass) {
  const auto deviates = [&](Kind kind) { return scenario.deviates(step, rank, kind); };
  torch::Tensor x = torch::tanh(net->a(input(step, pass, rank)));
  std::vector<torch::nn::Linear> layers = {net->b, net->spare};
  if (deviates(Kind::OtherOrder)) std::ranges::reverse(layers);
  if (deviates(Kind::SkipsALayer)) layers.pop_back();
  for (torch::nn::Linear& layer : layers) x = torch::tanh(layer(x));
  if (deviates(Kind::Throws)) x = Bomb::apply(x);
  return squared_error(net->c(x), step, pass, rank);
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

void set_frozen(Net& net, bool frozen) {
  for (torch::Tensor& parameter : net->b->parameters()) parameter.set_requires_grad(!frozen);
}

/// Makes what is before the head wider, which LibTorch refuses in backward.
void change_shapes(Net& net) {
  net->spare->weight.set_data(torch::ones({9, 7}, there(torch::kFloat64)));
  net->spare->bias.set_data(torch::ones({9}, there(torch::kFloat64)));
  net->c->weight.set_data(torch::ones({3, 9}, there(torch::kFloat64)));
}

/// Without a backward.
void add_gradients(Net& net, const Scenario& scenario, int step, int rank) {
  const std::vector<torch::Tensor> parameters = net->parameters();
  const auto gradients = torch::autograd::grad({loss_of(net, scenario, step, rank, 0)}, parameters);
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    torch::Tensor& gradient = parameters[i].mutable_grad();
    gradient = gradient.defined() ? gradient.add_(gradients[i]) : gradients[i];
  }
}

void run_backward(Net& net, const Scenario& scenario, int step, int rank) {
  const auto deviates = [&](Kind kind) { return scenario.deviates(step, rank, kind); };
  if (deviates(Kind::NoBackward) || deviates(Kind::Synchronizes)) return;
  if (deviates(Kind::GradientsByHand)) return add_gradients(net, scenario, step, rank);
  if (deviates(Kind::GradientOfAnotherShape)) {
    net->c->bias.mutable_grad() = torch::ones({5}, there(torch::kFloat64));
    return net->b->bias.sum().backward();
  }
  set_frozen(net, deviates(Kind::FreezesALayer));
  const int passes = deviates(Kind::BackwardTwice) ? 2 : 1;
  for (int pass = 0; pass < passes; ++pass) loss_of(net, scenario, step, rank, pass).backward();
  set_frozen(net, false);
}

// ---- whole runs ----

/// Gives the error that has ended it, or nothing. The optimizer is gone then.
std::string train(Net& net, const Scenario& scenario) {
  const int rank = kolo::rank();
  const OptimizerPtr inner = sgd()(net->parameters());
  DistributedOptimizer optimizer(*inner, net->named_parameters());
  torch::Tensor before;
  const auto step_once = [&] {
    optimizer.step();
    before = flat_parameters(*net);
  };
  try {
    for (int step = 0; step < kSteps; ++step) {
      const auto deviates = [&](Kind kind) { return scenario.deviates(step, rank, kind); };
      if (deviates(Kind::Late)) std::this_thread::sleep_for(std::chrono::milliseconds(3));
      zero(net, scenario.zeroes);
      if (deviates(Kind::ChangesAShape)) change_shapes(net);
      if (deviates(Kind::ChangesAParameter)) net->c->bias.detach().add_(1);
      if (deviates(Kind::ChangesAnOption)) optimizer.param_groups()[0].options().set_lr(0.025);
      before = flat_parameters(*net);
      run_backward(net, scenario, step, rank);
      if (deviates(Kind::Synchronizes)) optimizer.synchronize();
      torch::Tensor& average = net->c->bias.mutable_grad();
      if (deviates(Kind::ReplacesAnAverage)) average = average + 1;
      if (deviates(Kind::AddsToAnAverage)) average.add_(1);
      if (deviates(Kind::AddsAParameter)) {
        const torch::Tensor more = torch::zeros({2}, there(torch::kFloat64)).requires_grad_();
        inner->add_param_group(torch::optim::OptimizerParamGroup({more}));
      }
      step_once();
      if (deviates(Kind::StepTwice)) step_once();
    }
    return {};
  } catch (const std::exception& error) {
    const bool by_another = !scenario.failure() || scenario.failure()->rank != rank;
    if (by_another) expect_error([&optimizer] { optimizer.step(); }, {"step()", "were refused"});
    EXPECT_TRUE(identical(flat_parameters(*net), before)) << error.what();
    return error.what();
  }
}

/// The same without Kolo: the mean of all ranks' gradients.
void train_alone(Net& net, const Scenario& scenario) {
  const OptimizerPtr optimizer = sgd()(net->parameters());
  for (int step = 0; step < kSteps; ++step) {
    zero(net, scenario.zeroes);
    for (int rank = 0; rank < kolo::size(); ++rank) run_backward(net, scenario, step, rank);
    for (torch::Tensor& parameter : net->parameters()) {
      if (parameter.grad().defined()) parameter.mutable_grad().div_(kolo::size());
    }
    optimizer->step();
  }
}

// ---- errors ----

/// What the error says on the rank that has deviated, and on the others.
struct Words {
  std::string_view own;
  std::string_view others;
};

/// `late`: a rank has come late to the step.
Words words_of(Kind kind, bool late) {
  constexpr std::string_view kException = "backward() ended with an exception on rank ";
  constexpr std::string_view kAltered = "has altered the gradient of 'optimizer";
  switch (kind) {
    case Kind::ReplacesAnAverage:
      if (late) return {kAltered, kAltered};
      return {"set by hand since backward()", "set by hand since backward()"};
    case Kind::AddsToAnAverage:
      if (late) return {kAltered, kAltered};
      return {"the parameters of the ranks differ", "the parameters of the ranks differ"};
    case Kind::ChangesAParameter:
      return {"c.bias' first at element 0, which is", "c.bias' first at element 0, which is"};
    case Kind::ChangesAnOption:
      return {"the lr of group 0 is", "the lr of group 0 is"};
    case Kind::BackwardTwice:
      return {"different numbers of backward passes", "different numbers of backward passes"};
    case Kind::StepTwice:
      return {"calls step() without a backward()", "calls step() without a backward()"};
    case Kind::GradientOfAnotherShape:
      return {"c.bias' on rank ", "c.bias' on rank "};
    case Kind::AddsAParameter:
      return {"added to an optimizer", kException};
    case Kind::Throws:
      return {"the bomb goes off", kException};
    case Kind::ChangesAShape:
      return {"[3, 7]", kException};
    case Kind::Late:
    case Kind::SkipsALayer:
    case Kind::FreezesALayer:
    case Kind::OtherOrder:
    case Kind::NoBackward:
    case Kind::GradientsByHand:
    case Kind::Synchronizes:
      break;
  }
  return {};
}

/// By rank, without what is beyond the first thousand bytes. Collective.
std::vector<std::string> on_all_ranks(std::string text) {
  text.resize(999);
  text.push_back('\0');
  const auto bytes = torch::from_blob(text.data(), {std::ssize(text)}, torch::kUInt8).to(device());
  std::vector<std::string> texts;
  for (const torch::Tensor& gathered : gather(bytes)) {
    const torch::Tensor host = gathered.cpu().contiguous();
    texts.emplace_back(static_cast<const char*>(host.data_ptr()));
  }
  return texts;
}

/// All ranks tell of the deviation: in the same words, unless it is one's own failure. Collective.
void expect_told(const Deviation& cause, bool late, const std::string& error) {
  const Words words = words_of(cause.kind, late);
  const std::vector<std::string> errors = on_all_ranks(error);
  const auto own = static_cast<std::size_t>(cause.rank);
  const std::string& of_others = errors[own == 0 ? 1 : 0];
  for (std::size_t rank = 0; rank < errors.size(); ++rank) {
    const std::string_view expected = rank == own ? words.own : words.others;
    EXPECT_NE(errors[rank].find(expected), std::string::npos) << rank << ": " << errors[rank];
    if (rank != own || words.own == words.others) {
      EXPECT_EQ(errors[rank], of_others) << "rank " << rank;
    }
  }
  EXPECT_NE(of_others.find("rank " + std::to_string(cause.rank)), std::string::npos) << of_others;
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
    SCOPED_TRACE(::testing::Message() << "seed " << seed << scenario);
    torch::manual_seed(static_cast<std::int64_t>(seed));
    Net net;
    Net oracle;
    copy_parameters(*net, *oracle);
    const std::string error = train(net, scenario);
    if (const std::optional<Deviation> cause = scenario.failure()) {
      expect_told(*cause, scenario.has_latecomer(cause->step), error);
      continue;
    }
    EXPECT_EQ(error, "");
    train_alone(oracle, scenario);
    EXPECT_LT(relative_difference(flat_parameters(*net), flat_parameters(*oracle)), 1e-10);
    EXPECT_TRUE(identical_on_all_ranks(flat_parameters(*net)));
  }
}

}  // namespace
}  // namespace kolo::testing
