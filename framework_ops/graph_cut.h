#pragma once

/// Collectives are no part of autograd's graph, which people do not expect.

#include <torch/types.h>

#include <string>

#include "context/context.h"

namespace kolo::detail {

/// Warns, once for each name, where autograd would record an operation on `tensor`, and a
/// collective whose result is another tensor ends the graph instead. Thread-safe.
void warn_of_graph_cut(core::Context& context, core::CollectiveKind kind, const std::string& name,
                       const torch::Tensor& tensor);

}  // namespace kolo::detail
