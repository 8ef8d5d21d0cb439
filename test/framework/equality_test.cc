// Options and parameters that differ between ranks: an error on all ranks that says which, where
// and what.

#include <cstdlib>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "framework/optimizer_errors.h"

namespace kolo::testing {
namespace {

using torch::optim::OptimizerOptions;

class EqualityTest : public OptimizerErrorsTest {
 protected:
  void train(torch::optim::Optimizer& optimizer, int first, int end) {
    for (int step = first; step < end; ++step) {
      optimizer.zero_grad();
      loss(step).backward();
      optimizer.step();
    }
  }

  /// All ranks get this very message in the next backward; then parameters are still alike.
  void expect_refused(torch::optim::Optimizer& optimizer, const std::string& message) {
    const torch::Tensor before = flat_parameters(*net_);
    optimizer.zero_grad();
    EXPECT_EQ(error_of([&] { loss().backward(); }), message);
    expect_error([&] { optimizer.step(); }, {"refused"});
    EXPECT_TRUE(identical(flat_parameters(*net_), before));
  }

  static std::string of_options(const std::string& optimizer, const std::string& which) {
    return optimizer + ": the options of the ranks' optimizers differ: " + which +
           ". Parameters would part: decide on them by what is the same on all ranks, as the mean "
           "of all "
           "ranks' losses is. KOLO_CHECK_EQUAL=off lets them differ.";
  }

  /// What the names of this optimizer begin with: from an error of its own.
  std::string name_of(DistributedOptimizer& optimizer) {
    optimizer.zero_grad();
    if (kolo::rank() == 0) optimizer.param_groups()[0].options().set_lr(7);
    const std::string error = error_of([&] { loss().backward(); });
    if (kolo::rank() == 0) optimizer.param_groups()[0].options().set_lr(0.1);
    return error.substr(0, error.find(':'));
  }
};

TEST_F(EqualityTest, ALearningRateOfOneRank) {
  if (alone_) return;
  DistributedOptimizer optimizer(*sgd_, net_->named_parameters());
  const std::string name = name_of(optimizer);
  train(optimizer, 0, 5);
  // On the wrapper, or on the inner optimizer.
  for (const bool in_wrapper : {true, false}) {
    auto& group = in_wrapper ? optimizer.param_groups()[0] : sgd_->param_groups()[0];
    if (kolo::rank() == 1) group.options().set_lr(0.025);
    expect_refused(optimizer,
                   of_options(name, "the lr of group 0 is 0.1 on rank 0, but 0.025 on rank 1"));
    if (kolo::rank() == 1) group.options().set_lr(0.1);
    expect_right_training(optimizer);
  }
}

// For one step only, and after its backward.
TEST_F(EqualityTest, ALearningRateOfOneRankInStep) {
  if (alone_) return;
  DistributedOptimizer optimizer(*sgd_, net_->named_parameters());
  const std::string name = name_of(optimizer);
  train(optimizer, 0, 4);
  loss().backward();
  if (kolo::rank() == 1) optimizer.param_groups()[0].options().set_lr(0.2);
  optimizer.step();
  if (kolo::rank() == 1) optimizer.param_groups()[0].options().set_lr(0.1);
  expect_refused(optimizer,
                 of_options(name,
                            "the lr of group 0 was, in the last step, 0.1 on rank 0, but 0.2 on "
                            "rank 1"));
}

struct OptionChange {
  MakeOptimizer make;
  std::function<void(OptimizerOptions&)> change;
  std::string message;
};

template <typename Options>
std::function<void(OptimizerOptions&)> changing(const std::function<void(Options&)>& change) {
  return [change](OptimizerOptions& options) { change(static_cast<Options&>(options)); };
}

template <typename Optimizer>
MakeOptimizer making() {
  return [](std::vector<torch::Tensor> parameters) -> OptimizerPtr {
    return std::make_unique<Optimizer>(std::move(parameters), 0.1);
  };
}

TEST_F(EqualityTest, AnyOptionOfOneRank) {
  if (alone_) return;
  namespace optim = torch::optim;
  const std::vector<OptionChange> changes = {
      {sgd(), changing<optim::SGDOptions>([](auto& of) { of.weight_decay(0.5); }),
       "the weight_decay of group 0 is 0.01 on rank 0, but 0.5 on rank 1"},
      {sgd(), changing<optim::SGDOptions>([](auto& of) { of.nesterov(true); }),
       "the nesterov of group 0 is 0 on rank 0, but 1 on rank 1"},
      {adam(), changing<optim::AdamOptions>([](auto& of) {
         of.betas({0.9, 0.99});
       }),
       "the second of betas of group 0 is 0.999 on rank 0, but 0.99 on rank 1"},
      {adamw(), changing<optim::AdamWOptions>([](auto& of) { of.eps(1e-6); }),
       "the eps of group 0 is 1e-08 on rank 0, but 1e-06 on rank 1"},
      {making<optim::RMSprop>(), changing<optim::RMSpropOptions>([](auto& of) { of.alpha(0.9); }),
       "the alpha of group 0 is 0.99 on rank 0, but 0.9 on rank 1"},
      {making<optim::Adagrad>(), changing<optim::AdagradOptions>([](auto& of) { of.lr_decay(1); }),
       "the lr_decay of group 0 is 0 on rank 0, but 1 on rank 1"},
      {making<optim::LBFGS>(),
       changing<optim::LBFGSOptions>([](auto& of) { of.line_search_fn("strong_wolfe"); }),
       "the line_search_fn of group 0 is none on rank 0, but strong_wolfe on rank 1"}};
  for (const OptionChange& change : changes) {
    const OptimizerPtr inner = change.make(net_->parameters());
    DistributedOptimizer optimizer(*inner, net_->named_parameters());
    if (kolo::rank() == 1) change.change(optimizer.param_groups()[0].options());
    expect_error([&] { loss().backward(); }, {change.message});
  }
}

constexpr const char* kCause =
    " Call broadcast_parameters() after whatever gives them their first values, also where that is "
    "the first "
    "forward, from a rank's own batch; and change them, and their gradients, on all ranks alike.";

TEST_F(EqualityTest, AForgottenBroadcast) {
  if (alone_) return;
  {
    const torch::NoGradGuard no_grad;
    net_->a->bias[3] = 0.5 + kolo::rank();
    net_->b->weight.fill_(kolo::rank());
  }
  DistributedOptimizer optimizer(*sgd_, net_->named_parameters());
  const std::string name = name_of(optimizer);
  const std::string message =
      "the parameters of the ranks differ in step 0: '" + name +
      "/a.bias' first at element 3, which is 0.5 on rank 0, but 1.5 on rank 1." + kCause;
  // Which is found again as long as it lasts.
  for (int time = 0; time < 3; ++time) expect_refused(optimizer, message);
  expect_right_training(optimizer, /*same_parameters=*/false);
}

// As where the first forward gives a layer its scale from the rank's own batch.
TEST_F(EqualityTest, ParametersSetInTheFirstForward) {
  if (alone_) return;
  DistributedOptimizer optimizer(*sgd_, net_->named_parameters());
  {
    const torch::NoGradGuard no_grad;
    net_->c->bias.copy_(input(0, 0, kolo::rank()).mean());
  }
  expect_error([&] { loss().backward(); },
               {"differ in step 0", "c.bias' first at element 0", kCause});
}

TEST_F(EqualityTest, AnotherShapeOfAParameterThatIsNotUsed) {
  if (alone_) return;
  DistributedOptimizer optimizer(*sgd_, net_->named_parameters());
  train(optimizer, 0, 1);
  if (kolo::rank() == 1) net_->spare->weight.set_data(torch::ones({9, 7}, there(torch::kFloat64)));
  optimizer.zero_grad();
  if (kolo::rank() == 1) net_->spare->weight.mutable_grad().reset();
  expect_error([&] { loss().backward(); },
               {"differ in step 1",
                "spare.weight' is Double [7, 7] on rank 0, but Double [9, 7] on rank 1"});
}

// Of a large parameter, beyond what is looked at at once; and with all ranks but one alike.
TEST_F(EqualityTest, TheLastBitsOfOneElement) {
  if (alone_) return;
  for (const auto dtype : {torch::kFloat32, torch::kFloat64, torch::kBFloat16}) {
    const torch::Tensor large = torch::full({100, 101}, 0.75, there(dtype)).requires_grad_();
    torch::optim::SGD sgd({large}, 0.1);
    torch::OrderedDict<std::string, torch::Tensor> names;
    names.insert("large", large);
    DistributedOptimizer optimizer(sgd, names);
    const torch::Tensor more =
        torch::full({}, 0.75 * (1 + (dtype == torch::kBFloat16 ? 1. / 64 : 1e-6)), there(dtype));
    if (kolo::rank() == last_rank()) large.detach()[71][3] = more;
    expect_error([&] { large.sum().backward(); },
                 {"large' first at element 7174, which is 0.75 on rank 0, but 0.7",
                  "on rank " + std::to_string(last_rank()), "processors that round differently",
                  "ATEN_CPU_CAPABILITY", "broadcast_parameters() now and then"});
  }
}

// Once it has been seen that ranks begin alike, they are looked at now and then.
TEST_F(EqualityTest, ParametersThatPartLater) {
  if (alone_) return;
  DistributedOptimizer optimizer(*sgd_, net_->named_parameters());
  train(optimizer, 0, 3);
  {
    const torch::NoGradGuard no_grad;
    if (kolo::rank() == 1) net_->b->bias[2] = 9;
  }
  train(optimizer, 3, 255);
  optimizer.zero_grad();
  expect_error([&] { loss(255).backward(); }, {"differ in step 255", "b.bias' first at element 2"});
  expect_right_training(optimizer, /*same_parameters=*/false);
}

// Of each of two optimizers.
TEST_F(EqualityTest, OfTheSecondOptimizer) {
  if (alone_) return;
  const OptimizerPtr of_b = sgd()(net_->b->parameters());
  const OptimizerPtr of_c = adam()(net_->c->parameters());
  DistributedOptimizer b(*of_b, net_->b->named_parameters());
  DistributedOptimizer c(*of_c, net_->c->named_parameters());
  const auto backward = [&] {
    net_->c(net_->b(random({2, 7}, {kolo::rank()}))).pow(2).mean().backward();
  };
  backward();
  b.step();
  c.step();
  if (kolo::rank() == 1) c.param_groups()[0].options().set_lr(1);
  expect_error(backward, {"the lr of group 0 is 0.01 on rank 0, but 1 on rank 1"});
}

/// With KOLO_CHECK_EQUAL=off or warn.
class UnequalTest : public EqualityTest {};

TEST_F(UnequalTest, GoesOn) {
  const char* const setting = std::getenv("KOLO_CHECK_EQUAL");
  if (setting == nullptr || alone_)
    GTEST_SKIP() << "is about several ranks with KOLO_CHECK_EQUAL=off or warn";
  const bool warns = kolo::rank() == 0 && std::string_view(setting) == "warn";
  ::testing::internal::CaptureStderr();
  DistributedOptimizer optimizer(*sgd_, net_->named_parameters());
  if (kolo::rank() == 1) optimizer.param_groups()[0].options().set_lr(0.2);
  train(optimizer, 0, 8);
  const std::string log = ::testing::internal::GetCapturedStderr();
  const auto times = [&log](std::string_view text) {
    int count = 0;
    for (std::size_t at = log.find(text); at != std::string::npos; at = log.find(text, at + 1))
      ++count;
    return count;
  };
  EXPECT_EQ(times("the lr of group 0 is 0.1 on rank 0, but 0.2 on rank 1"), warns ? 1 : 0) << log;
  EXPECT_EQ(times("the parameters of the ranks differ in step 1"), warns ? 1 : 0) << log;
  EXPECT_FALSE(identical_on_all_ranks(flat_parameters(*net_)));
}

}  // namespace
}  // namespace kolo::testing
