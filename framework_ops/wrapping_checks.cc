#include "wrapping_checks.h"

#include <torch/torch.h>

#include <algorithm>
#include <cctype>

#include "bridge.h"
#include "gradient_hooks.h"

namespace kolo::detail {
namespace {

constexpr std::size_t kLongestName = 100;

}  // namespace

std::string find_refusal(const core::Context& context, const NamedParameters& parameters,
                         const DistributedOptimizerOptions& options) {
  if (options.backward_passes_per_step < 1) {
    return c10::str("backward_passes_per_step must be at least 1, not ",
                    options.backward_passes_per_step);
  }
  if (std::string unfit = refusal(options.op); !unfit.empty()) return unfit;
  const auto is_control = [](unsigned char c) { return std::iscntrl(c) != 0; };
  if (options.name.size() > kLongestName || std::ranges::any_of(options.name, is_control)) {
    return c10::str("DistributedOptimizerOptions::name must have at most ", kLongestName,
                    " characters, and none that cannot be printed");
  }
  for (const auto& [name, parameter] : parameters) {
    const std::string unfit = refusal(context, parameter);
    if (!unfit.empty()) return c10::str("parameter '", name, "': ", unfit);
    if (!c10::isFloatingType(parameter.scalar_type())) {
      return c10::str(
          "parameter '", name, "' is ", parameter.scalar_type(),
          ", which has no gradient: make it a buffer, or leave it out of the optimizer");
    }
    if (is_watched(parameter)) {
      return c10::str("parameter '", name,
                      "' already belongs to another DistributedOptimizer. Give each parameter to "
                      "one optimizer only, or destroy the other one first: a std::unique_ptr or "
                      "std::optional that is assigned a new one still holds the old one while the new "
                      "one is made, so call reset() before.");
    }
  }
  return {};
}

std::vector<std::string> describe(const NamedParameters& parameters,
                                  const DistributedOptimizerOptions& options) {
  std::vector<std::string> lines = {
      refusal(options.op).empty() ? c10::str("reduce op ", core::to_string(to_core(options.op)))
                                  : refusal(options.op),
      c10::str("backward_passes_per_step ", options.backward_passes_per_step),
      c10::str("name '", options.name, "'")};
  for (const auto& [name, tensor] : parameters) {
    lines.push_back(c10::str("'", name, "' ", tensor.device().type(), " ", tensor.scalar_type(),
                             " ", tensor.sizes()));
    // Gradients have the parameter's layout.
    if (!tensor.is_contiguous()) lines.back() += c10::str(" with strides ", tensor.strides());
  }
  return lines;
}

}  // namespace kolo::detail
