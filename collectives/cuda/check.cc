#include "cuda/check.h"

#include <fmt/format.h>

namespace kolo::core::cuda {

Status check(cudaError_t error, std::string_view what) {
  if (error == cudaSuccess) return {};
  return Status::error(
      fmt::format("{}: {} ({})", what, cudaGetErrorString(error), cudaGetErrorName(error)));
}

Status check(ncclResult_t result, std::string_view what, ncclComm_t comm) {
  if (result == ncclSuccess || result == ncclInProgress) return {};
  const std::string_view last = ncclGetLastError(comm);
  return Status::error(fmt::format("{}: {}{}{}", what, ncclGetErrorString(result),
                                   last.empty() ? "" : ". NCCL's last error: ", last));
}

}  // namespace kolo::core::cuda
