#pragma once

/// What a rank says at the end of a round of gradients.

#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "word.h"

namespace kolo {

struct ClosingHead {
  enum class Trouble : std::uint8_t {
    None,
    /// Its backward ended with an exception.
    Exception,
    /// It has a gradient that cannot be reduced: `parameter`'s.
    UnfitGradient,
  };

  std::int64_t step = 0;
  /// Within the step.
  std::int64_t round = 0;
  std::int32_t rank = 0;
  std::int32_t parameter = 0;
  Trouble trouble = Trouble::None;
  /// It closes the round in step(), not at the end of a backward.
  bool in_step = false;
  /// It has run no backward since the last step, and holds gradients that were used there.
  bool repeats = false;
  /// It has left a gradient for another round.
  bool carries = false;
};

/// Its flags, by parameter: whether this rank has given a new gradient to the round.
using ClosingWord = Word<ClosingHead>;

/// The first rank that has closed the round in step() while another was in a backward; if any.
std::optional<int> find_latecomer(std::span<const ClosingWord> words);

/// Why a round with these words, one of each rank, is not to be used; or nothing. The same on each rank.
std::string find_disagreement(std::span<const ClosingWord> words,
                              std::span<const std::string> parameter_names);

}  // namespace kolo
