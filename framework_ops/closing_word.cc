#include "closing_word.h"

#include <fmt/format.h>

#include <algorithm>

namespace kolo {
namespace {

/// Where one of the rounds that do not fit is not that of a backward.
std::string advice(std::span<const ClosingWord> words, std::span<const std::string> parameter_names) {
  const auto by_hand = std::ranges::find_if(
      words, [](const ClosingWord& word) { return word.head.by_hand >= 0; });
  if (by_hand != words.end()) {
    return fmt::format(
        " Rank {} does so for the gradient of '{}', which the program has set by hand since backward(): all "
        "ranks have to call synchronize() after that.",
        by_hand->head.rank, parameter_names[static_cast<std::size_t>(by_hand->head.by_hand)]);
  }
  const auto synchronizes = std::ranges::find_if(words, [](const ClosingWord& word) {
    return word.head.closed_in == ClosedIn::Synchronize;
  });
  if (synchronizes == words.end()) return {};
  return fmt::format(
      " Rank {} does so in synchronize(), which all ranks have to call equally often; a rank whose backward() "
      "reaches no parameter calls it instead.",
      synchronizes->head.rank);
}

}  // namespace

std::optional<int> find_latecomer(std::span<const ClosingWord> words) {
  const auto in_step = [](const ClosingWord& word) { return word.head.in_step(); };
  const auto late = std::ranges::find_if(words, in_step);
  if (late == words.end() || std::ranges::all_of(words, in_step)) return std::nullopt;
  return late->head.rank;
}

std::string find_disagreement(std::span<const ClosingWord> words,
                              std::span<const std::string> parameter_names,
                              const std::string& exception) {
  const ClosingHead& first = words.front().head;
  const bool any_in_backward =
      std::ranges::any_of(words, [](const ClosingWord& word) { return !word.head.in_step(); });
  const bool all_repeat =
      std::ranges::all_of(words, [](const ClosingWord& word) { return word.head.repeats; });
  for (const ClosingWord& word : words) {
    const ClosingHead& head = word.head;
    switch (head.trouble) {
      case ClosingHead::Trouble::None:
        break;
      case ClosingHead::Trouble::Exception:
        return fmt::format(
            "backward() ended with an exception on rank {} ({}), so the gradients of this step are "
            "incomplete on all ranks",
            head.rank, exception);
      case ClosingHead::Trouble::UnfitGradient:
        return fmt::format(
            "the gradient of '{}' on rank {} is sparse, or is not of the parameter's shape, dtype and "
            "device: only dense (strided) gradients can be reduced, so call to_dense() first, or take "
            "the parameter out of the DistributedOptimizer",
            parameter_names[static_cast<std::size_t>(head.parameter)], head.rank);
    }
    if (head.step != first.step || head.round != first.round) {
      return fmt::format(
          "the ranks run different numbers of backward passes: rank {} reduces gradients for time {} "
          "in step {}, rank {} for time {} in step {}. Call backward() equally often on all ranks "
          "between two step(), or accumulate under no_sync().{}",
          first.rank, first.round + 1, first.step, head.rank, head.round + 1, head.step,
          advice(words, parameter_names));
    }
    // What all hold must be the same, or new.
    if (head.repeats && (any_in_backward || !all_repeat)) {
      return fmt::format(
          "rank {} {} since its last one, with gradients that were used already, while other ranks have "
          "{}. Call step() once for each backward, or zero_grad() before a step without one.",
          head.rank, head.in_step() ? "calls step() without a backward()" : "has run no backward()",
          any_in_backward ? "new ones" : "new ones or none");
    }
  }
  return {};
}

}  // namespace kolo
