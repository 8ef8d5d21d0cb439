#pragma once

/// CUDA's and NCCL's error codes as Status.

#include <cuda_runtime_api.h>
#include <nccl.h>

#include <string_view>

#include "base/status.h"

namespace kolo::core::cuda {

/// Success, or an error that says `what` failed, with CUDA's name and text for it. Thread-safe.
Status check(cudaError_t error, std::string_view what);

/// The same of NCCL, with what it says of its last error; a call that is still in progress is a success.
/// `comm` may be null. Thread-safe.
Status check(ncclResult_t result, std::string_view what, ncclComm_t comm);

}  // namespace kolo::core::cuda
