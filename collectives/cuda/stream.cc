#include "cuda/stream.h"

#include <cuda.h>

#include <utility>

#include "cuda/check.h"

namespace kolo::core::cuda {
namespace {

using GetContextState = CUresult (*)(CUdevice, unsigned int*, int*);

GetContextState find_get_context_state() {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult result{};
  constexpr unsigned int kSince = 7000;
  const cudaError_t error = cudaGetDriverEntryPointByVersion(
      "cuDevicePrimaryCtxGetState", &function, kSince, cudaEnableDefault, &result);
  const bool found = error == cudaSuccess && result == cudaDriverEntryPointSuccess;
  return found ? reinterpret_cast<GetContextState>(function) : nullptr;
}

bool has_context(int device) {
  static const GetContextState get_state = find_get_context_state();
  unsigned int flags = 0;
  int active = 0;
  return get_state == nullptr ||
         (get_state(device, &flags, &active) == CUDA_SUCCESS && active != 0);
}

}  // namespace

DeviceGuard::DeviceGuard(int device) : device_(device), before_(device) {
  status_ = check(cudaGetDevice(&before_), "cudaGetDevice");
  if (status_.ok() && device != before_) status_ = check(cudaSetDevice(device), "cudaSetDevice");
}

DeviceGuard::~DeviceGuard() {
  // What was current can be so again.
  if (before_ != device_ && has_context(before_)) (void)cudaSetDevice(before_);
}

Result<Stream> Stream::create_urgent() {
  int least = 0;
  int greatest = 0;
  Status status = check(cudaDeviceGetStreamPriorityRange(&least, &greatest),
                        "cudaDeviceGetStreamPriorityRange");
  if (!status.ok()) return status;
  cudaStream_t stream = nullptr;
  status = check(cudaStreamCreateWithPriority(&stream, cudaStreamNonBlocking, greatest),
                 "cudaStreamCreateWithPriority");
  if (!status.ok()) return status;
  return Stream(stream);
}

Stream::Stream(Stream&& other) noexcept : stream_(std::exchange(other.stream_, nullptr)) {}

Stream& Stream::operator=(Stream&& other) noexcept {
  std::swap(stream_, other.stream_);
  return *this;
}

Stream::~Stream() {
  // What is left in it still runs.
  if (stream_ != nullptr) (void)cudaStreamDestroy(stream_);
}

}  // namespace kolo::core::cuda
