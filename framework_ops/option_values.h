#pragma once

/// What the options of an optimizer are.

#include <torch/optim/optimizer.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace kolo {

struct OptionValue {
  std::string_view name;
  double number = 0;
  /// Where it is no number.
  std::string text = {};
};

/// Of LibTorch's own optimizers all; of others the learning rate, if they have one.
std::vector<OptionValue> values_of(const torch::optim::OptimizerOptions& options);

std::uint64_t digest_of(const OptionValue& value, std::uint64_t seed);

std::string to_string(const OptionValue& value);

}  // namespace kolo
