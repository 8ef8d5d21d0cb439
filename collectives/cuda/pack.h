#pragma once

/// Many tensors into a fusion buffer, or out of it, in one launch.

#include <cuda_runtime_api.h>

#include <span>

#include "base/status.h"
#include "cuda/copy_table.h"

namespace kolo::core::cuda {

/// Queues the copies, in no order among themselves, in `stream`, a stream of the current device.
/// Waits for nothing; neither `copies` nor anything else must outlive the call besides the memory
/// that is copied.
Status launch_copies(std::span<const Copy> copies, const PackFormat& format, cudaStream_t stream);

}  // namespace kolo::core::cuda
