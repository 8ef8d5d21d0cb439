#pragma once

/// What a rank says at the end of a round of gradients.

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace kolo {

struct ClosingWord {
  enum class Trouble : std::uint8_t {
    None,
    /// Its backward ended with an exception.
    Exception,
    /// It has a gradient that cannot be reduced: `parameter`'s.
    UnfitGradient,
  };

  struct Head {
    std::int64_t step = 0;
    /// Within the step.
    std::int64_t round = 0;
    std::int32_t rank = 0;
    std::int32_t parameter = 0;
    Trouble trouble = Trouble::None;
    /// It closes the round in step(), not at the end of a backward.
    bool in_step = false;
    /// It does so without a backward since the last step, holding gradients that were used there.
    bool repeats = false;
    /// It has left a gradient for another round.
    bool carries = false;
  };
  Head head;
  /// By parameter: whether this rank has given a new gradient to the round.
  std::vector<bool> has_gradient;

  static std::size_t bytes(std::size_t parameters) { return sizeof(Head) + (parameters + 7) / 8; }
  /// Into `bytes(has_gradient.size())` bytes.
  void write(std::uint8_t* bytes) const;
  static ClosingWord read(const std::uint8_t* bytes, std::size_t parameters);
};

/// Why a round with these words, one of each rank, is not to be used; or nothing. The same on each rank.
std::string find_disagreement(std::span<const ClosingWord> words,
                              std::span<const std::string> parameter_names);

}  // namespace kolo
