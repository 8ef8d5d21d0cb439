#include "trainer.h"

#include <fmt/format.h>
#include <torch/nn/functional/loss.h>
#include <torch/utils.h>

#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "phase_clock.h"
#include "recipe.h"
#include "schedule.h"

namespace resnet_example {
namespace {

ResNet18 make_model(const Options& options, const Dataset& dataset, torch::Device device) {
  torch::manual_seed(options.seed);
  ResNet18 model(dataset.channels(), kClasses);
  model->to(device);
  return model;
}

torch::optim::SGDOptions sgd_options(const Options& options) {
  return torch::optim::SGDOptions(options.lr)
      .momentum(options.momentum)
      .weight_decay(options.weight_decay);
}

/// One slot in use, and two for each worker; none larger than all images.
StagingSize staging_size(const Options& options, const Dataset& dataset) {
  const std::size_t images = std::max(dataset.train.size(), dataset.test.size());
  return {.slots = 1 + 2 * static_cast<std::size_t>(options.workers),
          .batch_size = std::min(options.batch_size, static_cast<std::int64_t>(images)),
          .channels = dataset.channels()};
}

std::int64_t count_steps(const kolo::DistributedSampler& sampler, std::int64_t batch_size) {
  return (static_cast<std::int64_t>(sampler.size()) + batch_size - 1) / batch_size;
}

/// This rank's images of the next epoch.
std::vector<std::size_t> next_images(kolo::DistributedSampler& sampler) {
  sampler.reset();
  const auto images = sampler.next(sampler.size());
  return images ? *images : std::vector<std::size_t>();
}

std::string title_of(const EpochRecord& record, const Options& options) {
  return fmt::format("epoch {}/{}", record.epoch, options.epochs);
}

void set_learning_rate(torch::optim::Optimizer& optimizer, double lr) {
  for (auto& group : optimizer.param_groups()) group.options().set_lr(lr);
}

}  // namespace

Trainer::Trainer(const Options& options, const Dataset& dataset)
    : options_(options),
      dataset_(dataset),
      normalizer_(dataset),
      train_sampler_(dataset.train.size(), {.seed = options.seed, .tail = kolo::Tail::Drop}),
      test_sampler_(dataset.test.size(), {.shuffle = false, .tail = kolo::Tail::Uneven}),
      steps_per_epoch_(count_steps(train_sampler_, options.batch_size)),
      device_(kolo::local_device()),
      staging_(staging_size(options, dataset), device_),
      model_(make_model(options, dataset, device_)),
      sgd_(model_->parameters(), sgd_options(options)),
      checkpoints_(options.checkpoint_dir, training_recipe(options, dataset, kolo::size()),
                   device_),
      first_epoch_(start()),
      optimizer_(sgd_, model_->named_parameters()),
      progress_(kolo::rank() == 0, options.log_every) {}

void Trainer::run() {
  announce(first_epoch_);
  std::optional<History> history;  // on rank 0
  kolo::on_rank(0, [&] { history.emplace(options_.history, first_epoch_); });
  std::vector<EpochRecord> records;
  for (int epoch = first_epoch_; epoch < options_.epochs; ++epoch) {
    EpochRecord record = train_epoch(epoch);
    // What is tested is what rank 0 saves.
    kolo::average_buffers(*model_);
    evaluate(record);
    kolo::on_rank(0, [&] { history->append(record); });
    checkpoints_.save(epoch + 1, *model_, optimizer_, loss_scale_);
    progress_.print(render_epoch(record));
    records.push_back(record);
  }
  if (records.empty()) {
    progress_.print(fmt::format("nothing to do: {} epochs are done", first_epoch_));
  } else {
    progress_.print(render_summary(dataset_.name, options_.batch_size, records));
  }
}

/// Before the optimizer is wrapped, because loading gives the parameters new memory. Returns the
/// number of epochs that are done already.
int Trainer::start() {
  int epochs_done = 0;
  if (options_.resume) {
    epochs_done = checkpoints_.load(*model_, sgd_, loss_scale_);
  } else {
    checkpoints_.require_empty_folder();
  }
  kolo::broadcast_parameters(*model_, 0);
  kolo::broadcast_optimizer_state(sgd_, 0);
  return epochs_done;
}

EpochRecord Trainer::train_epoch(int epoch) {
  train_sampler_.set_epoch(static_cast<std::size_t>(epoch));
  BatchLoader loader(dataset_.train, normalizer_, next_images(train_sampler_),
                     {.batch_size = static_cast<std::size_t>(options_.batch_size),
                      .workers = options_.workers,
                      .augment = options_.augment,
                      .seed = options_.seed,
                      .epoch = epoch},
                     staging_.slots());
  EpochRecord record{.epoch = epoch + 1, .ranks = kolo::size()};
  Phases phases;
  Metrics metrics(device_);
  model_->train();

  const Stopwatch epoch_time;
  PhaseClock clock(device_);
  std::int64_t step = 0;
  for (std::optional<Batch> batch; (batch = loader.next()); ++step) {
    const auto [images, labels] = staging_.send(*batch);
    phases.data += clock.lap();

    record.lr = learning_rate(options_, kolo::size(), epoch, step, steps_per_epoch_);
    set_learning_rate(optimizer_, record.lr);
    optimizer_.zero_grad();
    const auto [output, loss] = forward(images, labels);
    phases.forward += clock.lap();

    const double waited_before = optimizer_.exposed_seconds();
    if (options_.amp == Amp::Float16) {
      (loss * loss_scale_.factor()).backward();
    } else {
      loss.backward();  // when it returns, the gradients are averages over all ranks
    }
    const double waited_in_backward = optimizer_.exposed_seconds() - waited_before;
    if (clock.measures()) phases.backward += clock.lap() - waited_in_backward;

    step_if_finite();
    const double waited = optimizer_.exposed_seconds() - waited_before;
    if (clock.measures()) {
      phases.optimizer += clock.lap() - (waited - waited_in_backward);
      phases.communication += waited;
    }

    metrics.add(output, labels, loss);
    show({.title = title_of(record, options_), .step = step + 1, .steps = steps_per_epoch_},
         metrics, epoch_time.seconds(), (options_.epochs - record.epoch) * steps_per_epoch_);
    clock.next_step();
  }
  metrics.add_other_ranks();
  const Metrics::Means means = metrics.read();
  record.train_loss = means.loss;
  record.train_accuracy = means.accuracy;
  record.phases = clock.of_all_steps(phases);
  record.seconds = epoch_time.seconds();
  record.images_per_second = means.images / record.seconds;
  return record;
}

Trainer::Result Trainer::forward(const torch::Tensor& images, const torch::Tensor& labels) {
  const Autocast autocast(options_.amp, device_);
  const torch::Tensor output = model_->forward(images).to(torch::kFloat32);
  return {output, torch::nn::functional::cross_entropy(output, labels)};
}

/// With float16, only if all gradients are finite: those of all ranks, or those of none.
void Trainer::step_if_finite() {
  if (options_.amp != Amp::Float16) {
    optimizer_.step();
    return;
  }
  const bool finite = unscale_gradients(model_->parameters(), loss_scale_.factor());
  if (finite) optimizer_.step();
  loss_scale_.update(finite);
}

/// Every rank tests its part of the test set.
void Trainer::evaluate(EpochRecord& record) {
  const torch::NoGradGuard no_grad;
  BatchLoader loader(
      dataset_.test, normalizer_, next_images(test_sampler_),
      {.batch_size = static_cast<std::size_t>(options_.batch_size), .workers = options_.workers},
      staging_.slots());
  const auto steps = static_cast<std::int64_t>(loader.batches());
  Metrics metrics(device_);
  model_->eval();
  const Stopwatch time;
  std::int64_t step = 0;
  for (std::optional<Batch> batch; (batch = loader.next()); ++step) {
    const auto [images, labels] = staging_.send(*batch);
    const auto [output, loss] = forward(images, labels);
    metrics.add(output, labels, loss);
    show({.title = title_of(record, options_) + " test", .step = step + 1, .steps = steps}, metrics,
         time.seconds(), 0);
  }
  metrics.add_other_ranks();
  const Metrics::Means means = metrics.read();
  record.test_loss = means.loss;
  record.test_accuracy = means.accuracy;
}

void Trainer::announce(int first_epoch) {
  const double full_lr =
      learning_rate(options_, kolo::size(), options_.warmup_epochs, 0, steps_per_epoch_);
  progress_.print(fmt::format("ResNet-18, {} parameters; {}, {} training and {} test images of {}",
                              render_count(count_parameters(*model_)), dataset_.name,
                              render_count(static_cast<std::int64_t>(dataset_.train.size())),
                              render_count(static_cast<std::int64_t>(dataset_.test.size())),
                              render_count(dataset_.channels(), "channel")));
  progress_.print(fmt::format("{} on {} with {} each; {} a step, {} an epoch, learning rate {:.4g}",
                              render_count(kolo::size(), "rank"), device_.is_cpu() ? "cpu" : "cuda",
                              render_count(torch::get_num_threads(), "thread"),
                              render_count(options_.batch_size * kolo::size(), "image"),
                              render_count(steps_per_epoch_, "step"), full_lr));
  if (first_epoch > 0) {
    progress_.print(fmt::format("going on after epoch {} of {}", first_epoch, options_.epochs));
  } else if (options_.resume) {
    progress_.print(fmt::format("no checkpoint in {} yet: starting with epoch 1",
                                options_.checkpoint_dir.string()));
  }
}

/// `steps_after` are those of the epochs to come.
void Trainer::show(StepStatus status, const Metrics& metrics, double seconds,
                   std::int64_t steps_after) {
  if (!progress_.due(status.step, status.steps)) return;
  const Metrics::Means means = metrics.read();
  status.loss = means.loss;
  status.accuracy = means.accuracy;
  status.images_per_second = means.images * kolo::size() / seconds;
  status.seconds_left = seconds / static_cast<double>(status.step) *
                        static_cast<double>(status.steps - status.step + steps_after);
  progress_.show(status);
}

}  // namespace resnet_example
