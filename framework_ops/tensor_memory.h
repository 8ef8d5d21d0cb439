#pragma once

/// Tensors in memory that LibTorch has not allocated.

#include <torch/types.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>

#include "context/context.h"

namespace kolo::detail {

/// Memory of the device on which collectives are fastest; may be dropped while the device still
/// works on it, as LibTorch's own.
core::Result<std::shared_ptr<void>> allocate(const std::shared_ptr<core::Context>& context,
                                             torch::Device device, std::size_t bytes);

/// Memory of the core's that may be dropped like that. The streams that are current here and where
/// it is dropped count as its users; for another one LibTorch's rule holds: what uses it there must
/// have been waited for.
std::shared_ptr<void> droppable(const std::shared_ptr<core::Context>& context, torch::Device device,
                                std::shared_ptr<void> memory);

/// A tensor at this place of `memory`, which it keeps alive; contiguous unless there are strides.
torch::Tensor tensor_in(const std::shared_ptr<void>& memory, std::int64_t bytes_before,
                        torch::IntArrayRef sizes, const torch::TensorOptions& options,
                        const std::optional<torch::IntArrayRef>& strides = std::nullopt);

}  // namespace kolo::detail
