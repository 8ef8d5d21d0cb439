#pragma once

/// What must hold of an optimizer that is to be wrapped.

#include <kolo/distributed_optimizer.h>

#include <string>
#include <utility>
#include <vector>

#include "context/context.h"

namespace kolo::detail {

using NamedParameters = std::vector<std::pair<std::string, torch::Tensor>>;

/// Why it cannot be wrapped; empty when it can.
std::string find_refusal(const core::Context& context, const NamedParameters& parameters,
                         const DistributedOptimizerOptions& options);

/// What must be the same on all ranks, in words.
std::vector<std::string> describe(const NamedParameters& parameters,
                                  const DistributedOptimizerOptions& options);

}  // namespace kolo::detail
