#pragma once

/// Are an optimizer's options and parameters what they are on the other ranks?

#include <kolo/process_set.h>
#include <torch/types.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "closing_word.h"
#include "context/context.h"
#include "option_values.h"

namespace kolo {

/// Each closing word tells a digest of what the options are, and of what they were in the last
/// step; and, in the first three steps and then in each 256th, until a round of it is accepted, of
/// the parameters, as they are at the end of the round: that costs one look at their memory. All
/// ranks hear the same words. Where these differ, all say what they hold, in operations that are
/// negotiated, and come to the same message; the round is refused, or, with KOLO_CHECK_EQUAL=warn,
/// the first rank warns, once about options and once about parameters.
class EqualityCheck {
 public:
  /// By group.
  using Options = std::vector<std::vector<OptionValue>>;

  struct Optimizer {
    /// Begins the names of its operations.
    std::string prefix;
    ProcessSet process_set;
    /// Of the parameters.
    std::vector<std::string> names;
    std::vector<torch::Tensor> parameters;
    /// Gives those that the next step will use.
    std::function<Options()> options;
  };

  EqualityCheck(std::shared_ptr<core::Context> context, Optimizer optimizer);

  /// What this rank tells at the end of a round, whose step and round `head` says.
  void describe(ClosingHead& head);

  /// The inner optimizer is about to make this step.
  void note_step(std::int64_t step);

  /// Why the round of these words is not to be used; empty when nothing is wrong. Collective, and
  /// the same on each rank. Waits only if they differ.
  ///
  /// @throws kolo::Error when a rank has left.
  std::string find_difference(std::span<const ClosingWord> words);

 private:
  std::string find(std::span<const ClosingWord> words);
  std::string explain_options(const Options& options, const char* verb) const;
  std::string explain_parameters(std::int64_t step) const;
  std::string judge(bool& warned, int first_rank,
                    const std::function<std::string()>& explain) const;

  const std::shared_ptr<core::Context> context_;
  const Optimizer optimizer_;
  /// As of the last word.
  Options options_;
  /// As of the last step that was made, and which that was.
  Options used_;
  std::optional<std::int64_t> last_step_;
  /// By parameter.
  std::vector<std::uint64_t> digests_;
  /// The last step in which they were the same.
  std::optional<std::int64_t> compared_in_;
  bool warned_of_options_ = false;
  bool warned_of_parameters_ = false;
};

}  // namespace kolo
