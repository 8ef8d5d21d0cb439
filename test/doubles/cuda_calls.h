#pragma once

/// How each double of a CUDA call begins and ends.

#include <cuda_runtime_api.h>

#include "doubles/control.h"

namespace kolo::doubles {

/// Remembers an error for cudaGetLastError.
cudaError_t ended(cudaError_t error);

/// The error that a test has asked for, or success.
inline cudaError_t entered(Function function) {
  return ended(static_cast<cudaError_t>(enter(function)));
}

}  // namespace kolo::doubles
