#include <torch/torch.h>

#include <chrono>
#include <memory>
#include <optional>
#include <utility>

#include "bench/check.h"
#include "bench/compute.h"
#include "bench/reducers.h"
#include "bench/sampling.h"
#include "bench/subcommands.h"
#include "resnet18_cifar10/resnet.h"

namespace kolo::bench {
namespace {

using resnet_example::ResNet18;

constexpr std::int64_t kChannels = 3;
constexpr std::int64_t kSide = 32;
constexpr std::int64_t kClasses = 10;
constexpr std::uint64_t kSeed = 1;

/// Images of noise, which are in memory already: each rank has its own.
struct Batch {
  Batch(std::int64_t size, int rank) {
    torch::manual_seed(kSeed + static_cast<std::uint64_t>(rank));
    images = torch::randn({size, kChannels, kSide, kSide});
    labels = torch::randint(kClasses, {size}, torch::kInt64);
  }

  torch::Tensor images;
  torch::Tensor labels;
};

/// With parameters that are the same on all ranks, and whoever trains it.
ResNet18 make_network() {
  torch::manual_seed(kSeed);
  return ResNet18(kChannels, kClasses);
}

torch::Tensor loss_of(ResNet18& network, const Batch& batch) {
  return torch::nn::functional::cross_entropy(network->forward(batch.images), batch.labels);
}

/// The example's network and optimizer, trained in one of the ways that are compared; without a
/// reducer, each rank for itself.
class NetworkTrainee {
 public:
  NetworkTrainee(std::string name, Reducer* reducer, const Batch& batch, const Ranks& ranks)
      : name_(std::move(name)),
        batch_(batch),
        ranks_(ranks),
        parameters_(network_->parameters()),
        optimizer_(parameters_,
                   torch::optim::SGDOptions(/*lr=*/0.1).momentum(0.9).weight_decay(5e-4)),
        training_(make_training(reducer, parameters_, optimizer_)) {
    for (int i = 0; i < kStepsToSettle; ++i) step();
  }

  void step() {
    network_->zero_grad(/*set_to_none=*/true);
    training_->run([this] { return loss_of(network_, batch_); });
  }

  /// Seconds of a step on this rank, of several in a row.
  double seconds_per_step(int steps) {
    ranks_.barrier();
    const auto begin = std::chrono::steady_clock::now();
    for (int i = 0; i < steps; ++i) step();
    return Seconds(std::chrono::steady_clock::now() - begin).count() / steps;
  }

  /// A step's gradients are the means of what the ranks find without a reducer. What all ranks have
  /// found is gathered: an all-reduce is what is checked.
  void check() {
    const std::vector<torch::Tensor> own = own_gradients();
    step();
    std::optional<std::string> wrong;
    for (std::size_t i = 0; i < parameters_.size(); ++i) {
      const std::vector<float> all = ranks_.gather(elements(own[i]));
      if (wrong) continue;
      const torch::Tensor gradient = parameters_[i].grad().contiguous();
      wrong = find_wrong_mean(elements(gradient), all, ranks_.size());
      if (wrong) wrong = "gradient " + std::to_string(i) + ": " + *wrong;
    }
    require_right(name_, wrong, ranks_);
  }

 private:
  static std::span<const float> elements(const torch::Tensor& contiguous) {
    return {contiguous.data_ptr<float>(), static_cast<std::size_t>(contiguous.numel())};
  }

  /// Those of a copy of the network that no reducer knows.
  std::vector<torch::Tensor> own_gradients() const {
    ResNet18 copy = make_network();
    const std::vector<torch::Tensor> parameters = copy->parameters();
    {
      const torch::NoGradGuard no_grad;
      for (std::size_t i = 0; i < parameters.size(); ++i) {
        torch::Tensor(parameters[i]).copy_(parameters_[i]);
      }
    }
    loss_of(copy, batch_).backward();
    std::vector<torch::Tensor> gradients;
    for (const torch::Tensor& one : parameters) gradients.push_back(one.grad().contiguous());
    return gradients;
  }

  const std::string name_;
  const Batch& batch_;
  const Ranks& ranks_;
  ResNet18 network_ = make_network();
  const std::vector<torch::Tensor> parameters_;
  torch::optim::SGD optimizer_;
  std::unique_ptr<Training> training_;
};

}  // namespace

void measure_train(const Options& options, const Ranks& ranks, Report& report) {
  const Labels labels = {
      {"batch", options.batch_size}, {"steps", options.steps}, {"threads", options.threads}};
  report.announce(labels);
  const Batch batch(options.batch_size, ranks.rank());
  std::vector<std::unique_ptr<Reducer>> reducers;
  std::vector<std::unique_ptr<NetworkTrainee>> trainees;
  std::vector<Method> methods;
  for (const Contender contender : contenders(options)) {
    reducers.push_back(make_reducer(contender, ranks));
    trainees.push_back(
        std::make_unique<NetworkTrainee>(name_of(contender), reducers.back().get(), batch, ranks));
    trainees.back()->check();
    methods.push_back({name_of(contender), [&options, trainee = trainees.back().get()] {
                         return trainee->seconds_per_step(options.steps);
                       }});
  }

  NetworkTrainee alone("alone", nullptr, batch, ranks);
  Series mean_alone{.method = "mean alone", .samples = {}};
  methods.push_back({"alone", [&] {
                       const double seconds = alone.seconds_per_step(options.steps);
                       mean_alone.samples.push_back(ranks.mean(seconds));
                       return seconds;
                     }});
  std::vector<Series> series = take_samples(methods, {.seconds = options.seconds}, ranks);
  const std::vector<double> slowest_alone = series.back().samples;
  mean_alone.samples.erase(mean_alone.samples.begin());  // of the warm-up
  series.push_back(std::move(mean_alone));
  report.add(labels, "step", "ms", scaled(series, 1e3));
  series.resize(trainees.size());
  for (const Series& one : scaled(series, 100)) {
    report.add({.labels = labels,
                .method = one.method,
                .quantity = "of alone",
                .unit = "%",
                .value = summary_of(ratios(one.samples, slowest_alone))});
  }
}

}  // namespace kolo::bench
