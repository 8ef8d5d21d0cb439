#include <fmt/format.h>
#include <torch/torch.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <optional>
#include <utility>

#include "bench/check.h"
#include "bench/memory_use.h"
#include "bench/reducers.h"
#include "bench/sampling.h"
#include "bench/subcommands.h"
#include "bench/synthetic_model.h"

namespace kolo::bench {
namespace {

/// A model that is trained in one of the ways that are compared; without a reducer, each rank for
/// itself.
class Trainee {
 public:
  Trainee(std::string name, Reducer* reducer, const SyntheticData& data, ZeroGrad zero_grad,
          const Options& options, const Ranks& ranks)
      : name_(std::move(name)),
        zero_grad_(zero_grad),
        ranks_(ranks),
        model_(data, options.compute, Compute(options.compute_as)),
        optimizer_(model_, options.compute, Compute(options.compute_as)),
        training_(make_training(reducer, model_.parameters(), optimizer_)) {}

  /// Forward, backward and optimizer; the seconds that they took on this rank.
  double step() {
    model_.zero_grad(zero_grad_);
    ranks_.barrier();
    const auto begin = std::chrono::steady_clock::now();
    training_->run([this] { return model_.forward(); });
    return Seconds(std::chrono::steady_clock::now() - begin).count();
  }

  /// The second step in a row: the first finds the caches full of another method's data.
  double warm_step() {
    step();
    return step();
  }

  /// Gradients are `factor` times the averages of what the ranks contribute.
  void check(double factor) const {
    std::optional<std::string> wrong;
    for (std::size_t i = 0; i < model_.parameters().size() && !wrong; ++i) {
      const torch::Tensor values =
          (model_.parameters()[i].grad().to(torch::kFloat64) / factor).contiguous();
      wrong = find_wrong({values.data_ptr<double>(), static_cast<std::size_t>(values.numel())},
                         ranks_.size(), i);
      if (wrong) wrong = fmt::format("gradient {}: {}", i, *wrong);
    }
    require_right(name_, wrong, ranks_);
  }

  const std::string& name() const { return name_; }

 private:
  const std::string name_;
  const ZeroGrad zero_grad_;
  const Ranks& ranks_;
  SyntheticModel model_;
  SyntheticOptimizer optimizer_;
  std::unique_ptr<Training> training_;
};

/// One model's shapes and way to begin a step, with all that train it.
class StepBench {
 public:
  StepBench(ModelName model, ZeroGrad zero_grad, const Options& options, const Ranks& ranks,
            Report& report)
      : zero_grad_(zero_grad),
        options_(options),
        ranks_(ranks),
        report_(report),
        data_(parameter_shapes(model), ranks.rank(), ranks.size()),
        labels_({{"model", name_of(model)}, {"zero_grad", name_of(zero_grad)}}) {
    const ComputeTimes& times = options.compute;
    if (times.forward + times.backward + times.optimizer > Seconds(0)) {
      labels_["compute"] =
          fmt::format("{} {:g},{:g},{:g}", name_of(options.compute_as), 1e3 * times.forward.count(),
                      1e3 * times.backward.count(), 1e3 * times.optimizer.count());
    }
  }

  void run() {
    report_.announce(labels_);
    // The first steps of a process take what all later ones use again.
    Trainee alone("alone", nullptr, data_, zero_grad_, options_, ranks_);
    alone.warm_step();
    add_trainees();
    std::vector<Method> methods;
    for (const auto& trainee : trainees_) {
      methods.push_back({trainee->name(), [&trainee] { return trainee->warm_step(); }});
    }
    std::vector<Series> series =
        scaled(take_samples(methods, {.seconds = options_.seconds}, ranks_), 1e3);
    const Series base = series.front();
    series.erase(series.begin());
    report_.add(labels_, "step", "ms", {base});
    for (Series& one : series) one.samples = differences(one.samples, base.samples);
    report_.add(labels_, "added", "ms", series);
    for (const Result& memory : memory_) report_.add(memory);
  }

 private:
  void add_trainees() {
    add_trainee("alone", std::nullopt);
    for (const Contender contender : contenders(options_)) {
      add_trainee(name_of(contender), contender);
      check(*trainees_.back());
    }
  }

  /// Measures what memory it takes besides the gradients.
  void add_trainee(const std::string& name, std::optional<Contender> contender) {
    forget_peak();
    const std::int64_t before = memory_use().now;
    reducers_.push_back(contender ? make_reducer(*contender, ranks_) : nullptr);
    trainees_.push_back(std::make_unique<Trainee>(name, reducers_.back().get(), data_, zero_grad_,
                                                  options_, ranks_));
    for (int i = 0; i < kStepsToSettle; ++i) trainees_.back()->step();
    ranks_.barrier();
    const MemoryUse after = memory_use();
    const double beyond = static_cast<double>(after.now + after.peak_beyond_now - before) -
                          static_cast<double>(data_.bytes());
    memory_.push_back({.labels = labels_,
                       .method = name,
                       .quantity = "memory",
                       .unit = "bytes",
                       .value = summary_of({ranks_.max(beyond)})});
  }

  /// A step with other gradients than the steps before, so that nothing old passes.
  void check(Trainee& trainee) {
    constexpr double kFactor = 2;
    data_.scale(kFactor);
    trainee.step();
    trainee.check(kFactor);
    data_.scale(1 / kFactor);
  }

  const ZeroGrad zero_grad_;
  const Options& options_;
  const Ranks& ranks_;
  Report& report_;
  SyntheticData data_;
  Labels labels_;
  std::vector<std::unique_ptr<Reducer>> reducers_;
  std::vector<std::unique_ptr<Trainee>> trainees_;
  /// Beyond the gradients.
  std::vector<Result> memory_;
};

}  // namespace

void measure_step(const Options& options, const Ranks& ranks, Report& report) {
  for (const ModelName model : options.models) {
    for (const ZeroGrad zero_grad : options.zero_grads) {
      StepBench(model, zero_grad, options, ranks, report).run();
    }
  }
}

}  // namespace kolo::bench
