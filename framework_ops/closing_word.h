#pragma once

/// What a rank says at the end of a round of gradients.

#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "word.h"

namespace kolo {

/// Where a rank closes a round: at the end of a backward, in synchronize(), or in step().
enum class ClosedIn : std::uint8_t { Backward, Synchronize, Step };

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
  /// Digests: EqualityCheck. 0 where there is nothing to compare.
  std::uint64_t options = 0;
  std::uint64_t options_used = 0;
  std::uint64_t parameters = 0;
  std::int32_t rank = 0;
  std::int32_t parameter = 0;
  /// The first parameter whose gradient the program has written itself; or none.
  std::int32_t by_hand = -1;
  Trouble trouble = Trouble::None;
  ClosedIn closed_in = ClosedIn::Backward;
  /// It has run no backward since the last step, and holds gradients that were used there.
  bool repeats = false;
  /// It has left a gradient for another round.
  bool carries = false;

  bool in_step() const { return closed_in == ClosedIn::Step; }
};

/// Its flags, by parameter: whether this rank has given a new gradient to the round.
using ClosingWord = Word<ClosingHead>;

/// The first rank that has closed the round in step() while another did so elsewhere; if any.
std::optional<int> find_latecomer(std::span<const ClosingWord> words);

/// Why a round with these words, one of each rank, is not to be used; or nothing. The same on each rank.
/// `exception`: what the first rank with an exception knows of it.
std::string find_disagreement(std::span<const ClosingWord> words,
                              std::span<const std::string> parameter_names,
                              const std::string& exception);

}  // namespace kolo
