// A round, from the first gradient to what all ranks make of it.

#include "reducer.h"

#include <kolo/error.h>
#include <torch/torch.h>

#include <algorithm>
#include <ranges>
#include <tuple>
#include <utility>

#include "bridge.h"

namespace kolo {

void DistributedOptimizer::Reducer::expect_gradients() {
  for (std::size_t i = 0; i < gradients_.size(); ++i) {
    gradients_[i].expected = gradients_[i].parameter().requires_grad();
    if (gradients_[i].expected) ++groups_[plan_->group_of(i)].expected;
  }
}

void DistributedOptimizer::Reducer::start_groups() {
  while (next_group_ < groups_.size() && groups_[next_group_].expected == 0) {
    start(next_group_++, ClosedIn::Backward);
  }
}

RoundGradient::Given DistributedOptimizer::Reducer::given(ClosedIn where) const {
  using Given = RoundGradient::Given;
  const bool all = where == ClosedIn::Synchronize || (where == ClosedIn::Step && round_ == 0);
  if (options_.op == ReduceOp::Average) return all ? Given::All : Given::Written;
  return all || round_ == 0 ? Given::Written : Given::Replaced;
}

void DistributedOptimizer::Reducer::start(std::size_t group, ClosedIn where) {
  const torch::Tensor& buffer = plan_->groups()[group].buffer;
  streams_.join_current(buffer.device());
  std::vector<core::Part> parts;
  RoundGradient::Packing packing;
  for (const std::size_t index : plan_->groups()[group].parameters) {
    RoundGradient& gradient = gradients_[index];
    if (!gradient.take(*plan_, given(where), packing)) {
      word_.head.trouble = ClosingHead::Trouble::UnfitGradient;
      word_.head.parameter = static_cast<std::int32_t>(index);
    }
    if (!track_) continue;
    parts.push_back({names_[index], gradient.taken() ? gradient.ready() : core::Clock::now()});
  }
  groups_[group].expected = 0;
  if (tuning_ != nullptr) groups_[group].times = std::make_shared<core::OperationTimes>();
  groups_[group].work = submit({.kind = core::CollectiveKind::Allreduce,
                                .name = c10::str("group ", group),
                                .parts = std::move(parts),
                                .times = groups_[group].times,
                                .pack = std::move(packing.copies),
                                .packed = std::move(packing.memory)},
                               buffer);
}

/// Starts what is left, and says this rank's word, without waiting for anything.
void DistributedOptimizer::Reducer::close_round(bool failed, ClosedIn where) {
  require_plan();
  const torch::NoGradGuard no_grad;
  const bool in_step = where == ClosedIn::Step;
  // Without a backward of its own it may still have been called in one: that is right with Average alone.
  word_.head.repeats = (in_step || options_.op != ReduceOp::Average) && round_ == 0 && passes_ == 0 &&
                       std::ranges::any_of(gradients_, [](const RoundGradient& gradient) {
                         return gradient.reduced() && !gradient.written() && gradient.holds_numbers();
                       });
  if (in_step && round_ > 0) {
    const auto by_hand = std::ranges::find_if(gradients_, [](const RoundGradient& gradient) {
      return gradient.replaced() && !gradient.fresh();
    });
    if (by_hand != gradients_.end()) {
      word_.head.by_hand = static_cast<std::int32_t>(by_hand - gradients_.begin());
    }
  }
  while (next_group_ < groups_.size()) start(next_group_++, where);
  if (where != ClosedIn::Backward) began_.reset();
  if (failed) word_.head.trouble = ClosingHead::Trouble::Exception;
  word_.head.step = step_;
  word_.head.round = round_++;
  word_.head.rank = context_->topology().rank;
  word_.head.closed_in = where;
  word_.head.carries = std::ranges::any_of(gradients_, &RoundGradient::fresh);
  // While an exception is under way, its cause is enough.
  if (equality_ != nullptr && !failed) equality_->describe(word_.head);
  for (const RoundGradient& gradient : gradients_) word_.flags.push_back(gradient.taken());
  words_ = submit({.kind = core::CollectiveKind::Allgather, .name = "closing_word"},
                  std::exchange(word_, {}).to_bytes());
}

/// A backward that has reached it, and not ended, ends with an exception.
void DistributedOptimizer::Reducer::join_round(ClosedIn where) {
  const std::lock_guard lock(mutex_);
  began_.reset();
  synchronized_ = where == ClosedIn::Synchronize;
  close_round(/*failed=*/std::exchange(open_backward_, nullptr) != nullptr, where);
}

std::optional<std::size_t> DistributedOptimizer::Reducer::altered() {
  const std::lock_guard lock(mutex_);
  const auto found = std::ranges::find_if(gradients_, &RoundGradient::altered);
  if (found == gradients_.end()) return std::nullopt;
  return static_cast<std::size_t>(found - gradients_.begin());
}

void DistributedOptimizer::Reducer::settle_latecomer(const std::string& error) {
  const std::lock_guard lock(mutex_);
  latecomer_.reset();
  std::ranges::for_each(gradients_, &RoundGradient::forget);
  if (!error.empty()) refused_ = error;
}

void DistributedOptimizer::Reducer::finish_rounds(ClosedIn where) {
  const std::lock_guard lock(mutex_);
  const torch::NoGradGuard no_grad;
  std::string error;
  while (finish_round(error)) close_round(/*failed=*/false, where);
  local_ = false;
  refused_ = error;
  for (RoundGradient& gradient : gradients_) {
    if (latecomer_) {
      gradient.remember();
    } else {
      gradient.forget();
    }
  }
  if (!error.empty()) throw Error(error);
}

/// Whether another round has to follow.
bool DistributedOptimizer::Reducer::finish_round(std::string& error) {
  const auto note = [&error](const auto& wait) {
    try {
      wait();
    } catch (const Error& failure) {
      if (error.empty()) error = failure.what();
    }
  };
  std::vector<ClosingWord> words;
  latecomer_.reset();
  note([&] {
    Work work = *std::exchange(words_, std::nullopt);
    words = ClosingWord::from_bytes(work.result(), gradients_.size());
  });
  for (Group& group : groups_) {
    note([&] { group.work->wait(); });
    group.work.reset();
  }
  next_group_ = 0;
  streams_.clear();
  for (std::size_t i = 0; i < gradients_.size(); ++i) {
    const auto has_gradient = [i](const ClosingWord& word) { return word.flags[i]; };
    gradients_[i].finish(*plan_, std::ranges::any_of(words, has_gradient));
  }
  if (!error.empty()) {
    reason_.clear();
    return false;
  }
  std::string reason;
  note([&] { reason = ask_for_reason(words); });
  if (error.empty()) error = find_disagreement(words, names_, reason);
  follow(words);
  if (error.empty() && equality_ != nullptr) {
    note([&] { error = equality_->find_difference(words); });
  }
  if (error.empty()) {
    latecomer_ = find_latecomer(words);
    improve_plan(words.front().head.rank);
  }
  return error.empty() &&
         std::ranges::any_of(words, [](const ClosingWord& word) { return word.head.carries; });
}

/// What the first rank with an exception knows of it; empty where there is none.
std::string DistributedOptimizer::Reducer::ask_for_reason(const std::vector<ClosingWord>& words) {
  constexpr std::size_t kLongest = 600;
  const std::string reason = std::exchange(reason_, {}).substr(0, kLongest);
  const auto failed = std::ranges::find(words, ClosingHead::Trouble::Exception,
                                        [](const ClosingWord& word) { return word.head.trouble; });
  if (failed == words.end()) return {};
  torch::Tensor own = torch::zeros({static_cast<std::int64_t>(kLongest)}, torch::kUInt8);
  std::ranges::copy(reason, own.data_ptr<std::uint8_t>());
  Work work = submit({.kind = core::CollectiveKind::Allgather, .name = "exception"}, own);
  const torch::Tensor all = work.result().view({-1, own.numel()});
  const torch::Tensor theirs = all[failed - words.begin()];
  const auto* const begin = reinterpret_cast<const char*>(theirs.data_ptr<std::uint8_t>());
  return {begin, std::find(begin, begin + kLongest, '\0')};
}

/// All ranks count as the one that is furthest ahead, so that those that were refused can go on together.
void DistributedOptimizer::Reducer::follow(const std::vector<ClosingWord>& words) {
  const auto place = [](const ClosingWord& word) {
    return std::pair(word.head.step, word.head.round);
  };
  std::tie(step_, round_) = std::ranges::max(words | std::views::transform(place));
  ++round_;
}

/// Until groups are adopted that follow from what rounds have shown.
void DistributedOptimizer::Reducer::improve_plan(int first_rank) {
  if (tuning_ == nullptr) return;
  try {
    RoundTimes times;
    for (const RoundGradient& gradient : gradients_) {
      auto& ready = times.ready.emplace_back();
      if (began_ && gradient.taken()) ready = gradient.ready() - *began_;
    }
    for (const Group& group : groups_) times.groups.push_back(*group.times);
    const std::optional<core::Grouping> groups = tuning_->accept(
        times, first_rank == context_->topology().rank, [&](const torch::Tensor& tensor) {
          return submit(
              {.kind = core::CollectiveKind::Broadcast, .name = "groups", .root_rank = first_rank},
              tensor);
        });
    if (!groups) return;
    adopt(*groups);
  } catch (...) {
    leave();
    plan_.reset();
    throw;
  }
  tuning_->tell(*context_, prefix_.substr(0, prefix_.size() - 1), track_);
  tuning_.reset();
}

/// An operation of the plan, in place unless it makes its output.
Work DistributedOptimizer::Reducer::submit(detail::Call call, const torch::Tensor& input) const {
  call.name = prefix_ + call.name;
  call.process_set = options_.process_set;
  call.plan = id_.second;
  call.op = options_.op;
  const bool in_place = call.kind != core::CollectiveKind::Allgather;
  return detail::submit(context_, std::move(call), input, in_place ? input : torch::Tensor());
}

}  // namespace kolo
