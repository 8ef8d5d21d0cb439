#include "closing_word.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <type_traits>

namespace kolo {

static_assert(std::is_trivially_copyable_v<ClosingWord::Head>);

void ClosingWord::write(std::uint8_t* bytes) const {
  std::memset(bytes, 0, ClosingWord::bytes(has_gradient.size()));
  std::memcpy(bytes, &head, sizeof(Head));
  std::uint8_t* bits = bytes + sizeof(Head);
  for (std::size_t i = 0; i < has_gradient.size(); ++i) {
    if (has_gradient[i]) bits[i / 8] = static_cast<std::uint8_t>(bits[i / 8] | (1U << (i % 8)));
  }
}

ClosingWord ClosingWord::read(const std::uint8_t* bytes, std::size_t parameters) {
  ClosingWord word;
  std::memcpy(&word.head, bytes, sizeof(Head));
  const std::uint8_t* bits = bytes + sizeof(Head);
  for (std::size_t i = 0; i < parameters; ++i) {
    word.has_gradient.push_back(((bits[i / 8] >> (i % 8)) & 1U) != 0);
  }
  return word;
}

std::string find_disagreement(std::span<const ClosingWord> words,
                              std::span<const std::string> parameter_names) {
  const ClosingWord::Head& first = words.front().head;
  const auto in_backward = [](const ClosingWord& word) { return !word.head.in_step; };
  const bool any_in_backward = std::ranges::any_of(words, in_backward);
  for (const ClosingWord& word : words) {
    const ClosingWord::Head& head = word.head;
    switch (head.trouble) {
      case ClosingWord::Trouble::None:
        break;
      case ClosingWord::Trouble::Exception:
        return fmt::format(
            "backward() ended with an exception on rank {}, so the gradients of this step are "
            "incomplete on all ranks",
            head.rank);
      case ClosingWord::Trouble::UnfitGradient:
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
          "between two step(), or accumulate under no_sync().",
          first.rank, first.round + 1, first.step, head.rank, head.round + 1, head.step);
    }
    if (head.repeats && any_in_backward) {
      return fmt::format(
          "rank {} calls step() without a backward() since its last one, with gradients that were used "
          "already, while other ranks have new ones. Call step() once for each backward, or "
          "zero_grad() before a step without one.",
          head.rank);
    }
  }
  return {};
}

}  // namespace kolo
