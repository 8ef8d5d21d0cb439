#include "group_tuning.h"

#include <fmt/format.h>
#include <torch/torch.h>

#include <algorithm>
#include <numeric>
#include <utility>

#include "gradient_plan.h"

namespace kolo {
namespace {

using Seconds = std::chrono::duration<double>;

core::GroupLimits limits_of(const core::Context& context) {
  core::GroupLimits limits;
  if (const auto threshold = context.config().fusion_threshold) {
    limits.first = std::min(limits.first, static_cast<std::size_t>(*threshold));
    limits.each = std::min(limits.each, static_cast<std::size_t>(*threshold));
  }
  return limits;
}

std::vector<std::size_t> last_to_first(std::size_t count) {
  std::vector<std::size_t> order(count);
  std::iota(order.rbegin(), order.rend(), std::size_t{0});
  return order;
}

/// On the wire: a row of parameters, and a row with the number of each one's group.
torch::Tensor encode(const core::Grouping& groups, std::size_t parameters) {
  torch::Tensor encoded = torch::zeros({2, static_cast<std::int64_t>(parameters)}, torch::kInt64);
  auto rows = encoded.accessor<std::int64_t, 2>();
  std::int64_t column = 0;
  for (std::size_t group = 0; group < groups.size(); ++group) {
    for (const std::size_t index : groups[group]) {
      rows[0][column] = static_cast<std::int64_t>(index);
      rows[1][column++] = static_cast<std::int64_t>(group);
    }
  }
  return encoded;
}

core::Grouping decode(const torch::Tensor& encoded) {
  core::Grouping groups;
  const auto rows = encoded.accessor<std::int64_t, 2>();
  for (std::int64_t column = 0; column < encoded.size(1); ++column) {
    if (rows[1][column] == std::ssize(groups)) groups.emplace_back();
    groups.back().push_back(static_cast<std::size_t>(rows[0][column]));
  }
  return groups;
}

}  // namespace

GroupTuning::GroupTuning(const core::Context& context, const std::vector<torch::Tensor>& parameters)
    : on_gpu_(std::ranges::any_of(parameters, &torch::Tensor::is_cuda)),
      fixed_sizes_(on_gpu_ || context.config().fusion_threshold.has_value()),
      limits_(limits_of(context)),
      tensors_(planned_tensors(parameters)),
      first_groups_(core::group_by_size(tensors_, last_to_first(tensors_.size()), limits_)),
      ready_(tensors_.size()) {}

std::optional<core::Grouping> GroupTuning::accept(
    const RoundTimes& times, bool is_first_rank,
    const std::function<Work(const torch::Tensor&)>& send) {
  switch (++accepted_) {
    case 1:
      break;
    case 2:
      note(times);
      break;
    case 3:
      note(times);
      if (is_first_rank) choice_ = choose();
      sent_ = send(encode(choice_ ? choice_->groups : core::Grouping(), tensors_.size()));
      break;
    case 4:
      return decode(sent_->result());
    default:
      break;
  }
  return std::nullopt;
}

void GroupTuning::note(const RoundTimes& times) {
  for (std::size_t i = 0; i < ready_.size(); ++i) {
    if (!times.ready[i]) continue;
    // What an earlier pass has left may have been there before.
    const double seconds = std::max(Seconds(*times.ready[i]).count(), 0.0);
    ready_[i] = std::min(ready_[i].value_or(seconds), seconds);
  }
  if (on_gpu_) return;
  // Groups that were under way at the same time count as one transfer: they have slowed each other down.
  core::Clock::time_point begin, end;
  for (std::size_t i = 0; i < first_groups_.size(); ++i) {
    const core::OperationTimes& group = times.groups[i];
    if (i == 0 || group.met >= end) {
      transfers_.push_back({.groups = 0});
      begin = group.met;
    }
    end = std::max(end, group.done);
    core::Transfer& transfer = transfers_.back();
    ++transfer.groups;
    transfer.bytes += core::bytes_of(tensors_, first_groups_[i]);
    transfer.seconds = Seconds(end - begin).count();
  }
}

GroupTuning::Choice GroupTuning::choose() const {
  Choice choice{.cost = core::fit_cost(transfers_)};

  // Parameters of which no gradient has come are last.
  std::optional<double> last_ready;
  for (const std::optional<double>& seconds : ready_) last_ready = std::max(last_ready, seconds);
  std::vector<double> ready;
  for (const std::optional<double>& seconds : ready_) {
    ready.push_back(seconds.value_or(last_ready.value_or(0)));
  }
  std::vector<std::size_t> order = last_to_first(tensors_.size());
  std::ranges::stable_sort(order, {}, [this](std::size_t index) {
    return std::pair(!ready_[index].has_value(), ready_[index].value_or(0));
  });

  if (fixed_sizes_ || !last_ready) {
    choice.chosen_by = on_gpu_        ? "size, as always on a GPU"
                       : fixed_sizes_ ? "KOLO_FUSION_THRESHOLD"
                                      : "size, as no gradient has come";
    choice.groups = core::group_by_size(tensors_, order, limits_);
  } else {
    choice.chosen_by = "time";
    choice.groups = core::group_by_time(tensors_, order, ready, choice.cost, limits_.each);
  }
  const auto exposed = [&](const core::Grouping& groups) {
    return core::predict_end(groups, tensors_, ready, choice.cost) - last_ready.value_or(0);
  };
  choice.exposed_before = exposed(first_groups_);
  choice.exposed = exposed(choice.groups);
  return choice;
}

void GroupTuning::tell(core::Context& context, const std::string& optimizer,
                       const std::optional<core::Timeline::Track>& track) const {
  if (!choice_) return;
  std::vector<std::int64_t> bytes;
  for (const auto& group : choice_->groups) {
    bytes.push_back(static_cast<std::int64_t>(core::bytes_of(tensors_, group)));
  }
  const auto mark = [&](core::Timeline::Args args) {
    if (track) context.timeline()->instant(*track, "groups", core::Clock::now(), args);
  };
  const std::string chosen = fmt::format("{}: {} groups instead of {}, chosen by {}", optimizer,
                                         bytes.size(), first_groups_.size(), choice_->chosen_by);
  if (on_gpu_) {
    context.inform(chosen);
    mark({{"groups", bytes.size()}, {"bytes", bytes}, {"chosen_by", choice_->chosen_by}});
    return;
  }
  const double latency_us = 1e6 * choice_->cost.latency;
  const double gb_per_s = 1e-9 / choice_->cost.per_byte;
  const double before_us = 1e6 * choice_->exposed_before;
  const double exposed_us = 1e6 * choice_->exposed;
  context.inform(
      fmt::format("{}. Costs: {:.0f} us a group, {:.1f} GB/s. Expected after the last "
                  "gradient: {:.0f} us, with the first groups {:.0f} us",
                  chosen, latency_us, gb_per_s, exposed_us, before_us));
  mark({{"groups", bytes.size()},
        {"bytes", bytes},
        {"chosen_by", choice_->chosen_by},
        {"latency_us", latency_us},
        {"gb_per_s", gb_per_s},
        {"exposed_us", exposed_us},
        {"exposed_before_us", before_us}});
}

}  // namespace kolo
