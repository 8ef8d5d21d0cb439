// CUDA's calls about devices, errors and memory.

#include <cuda.h>

#include <cstdio>
#include <string_view>
#include <utility>

#include "doubles/bytes.h"
#include "doubles/cuda_calls.h"
#include "doubles/memory.h"
#include "doubles/streams.h"

namespace kolo::doubles {
namespace {

thread_local cudaError_t last_error = cudaSuccess;

bool is_device(int device) { return device >= 0 && device < settings().devices; }

struct Name {
  cudaError_t error;
  const char* name;
  const char* description;
};

constexpr Name kNames[] = {
    {cudaSuccess, "cudaSuccess", "no error"},
    {cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument"},
    {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory"},
    {cudaErrorInsufficientDriver, "cudaErrorInsufficientDriver",
     "CUDA driver version is insufficient for CUDA runtime version"},
    {cudaErrorNoDevice, "cudaErrorNoDevice", "no CUDA-capable device is detected"},
    {cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "invalid device ordinal"},
    {cudaErrorInvalidResourceHandle, "cudaErrorInvalidResourceHandle", "invalid resource handle"},
    {cudaErrorIllegalState, "cudaErrorIllegalState",
     "the operation cannot be performed in the present state"},
    {cudaErrorNotReady, "cudaErrorNotReady", "device not ready"},
    {cudaErrorIllegalAddress, "cudaErrorIllegalAddress",
     "an illegal memory access was encountered"},
    {cudaErrorLaunchFailure, "cudaErrorLaunchFailure", "unspecified launch failure"},
};

CUresult tell_context(CUdevice device, unsigned int* flags, int* active) {
  *flags = 0;
  *active = has_context(device) ? 1 : 0;
  return CUDA_SUCCESS;
}

const Name* find(cudaError_t error) {
  for (const Name& name : kNames) {
    if (name.error == error) return &name;
  }
  return nullptr;
}

}  // namespace

cudaError_t ended(cudaError_t error) {
  if (error != cudaSuccess) last_error = error;
  return error;
}

}  // namespace kolo::doubles

using namespace kolo::doubles;  // NOLINT(google-build-using-namespace)

extern "C" {

const char* cudaGetErrorName(cudaError_t error) {
  const Name* const found = find(error);
  return found != nullptr ? found->name : "an error whose name the doubles do not know";
}

const char* cudaGetErrorString(cudaError_t error) {
  const Name* const found = find(error);
  return found != nullptr ? found->description : "an error whose text the doubles do not know";
}

cudaError_t cudaGetLastError() { return std::exchange(last_error, cudaSuccess); }

cudaError_t cudaPeekAtLastError() { return last_error; }

cudaError_t cudaDriverGetVersion(int* version) {
  if (const cudaError_t error = entered("cudaDriverGetVersion")) return error;
  *version = settings().driver_version;
  return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int* version) {
  if (const cudaError_t error = entered("cudaRuntimeGetVersion")) return error;
  *version = CUDART_VERSION;
  return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int* count) {
  if (const cudaError_t error = entered("cudaGetDeviceCount")) return error;
  if (settings().driver_version < CUDART_VERSION) return ended(cudaErrorInsufficientDriver);
  *count = settings().devices;
  return ended(*count == 0 ? cudaErrorNoDevice : cudaSuccess);
}

cudaError_t cudaSetDevice(int device) {
  if (const cudaError_t error = entered("cudaSetDevice")) return error;
  if (!is_device(device)) return ended(cudaErrorInvalidDevice);
  set_current_device(device);
  return cudaSuccess;
}

cudaError_t cudaGetDevice(int* device) {
  if (const cudaError_t error = entered("cudaGetDevice")) return error;
  *device = current_device();
  return cudaSuccess;
}

cudaError_t cudaGetDriverEntryPointByVersion(const char* name, void** function,
                                             unsigned int /*version*/, unsigned long long /*flags*/,
                                             cudaDriverEntryPointQueryResult* result) {
  if (const cudaError_t error = entered("cudaGetDriverEntryPointByVersion")) return error;
  const bool known = std::string_view(name) == "cuDevicePrimaryCtxGetState";
  *function = known ? reinterpret_cast<void*>(&tell_context) : nullptr;
  *result = known ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetPCIBusId(char* id, int length, int device) {
  if (const cudaError_t error = entered("cudaDeviceGetPCIBusId")) return error;
  if (!is_device(device)) return ended(cudaErrorInvalidDevice);
  const int needed =
      std::snprintf(id, static_cast<std::size_t>(length), "0000:%02X:00.0", device + 1);
  return ended(needed < length ? cudaSuccess : cudaErrorInvalidValue);
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  if (const cudaError_t error = entered("cudaGetDeviceProperties")) return error;
  if (!is_device(device)) return ended(cudaErrorInvalidDevice);
  *properties = {};
  std::snprintf(properties->name, sizeof properties->name, "Double %d", device);
  properties->major = 9;
  properties->minor = 0;
  properties->pciBusID = device + 1;
  return cudaSuccess;
}

cudaError_t cudaMalloc(void** address, size_t size) {
  if (const cudaError_t error = entered("cudaMalloc")) return error;
  *address = nullptr;
  if (size == 0) return cudaSuccess;
  *address = allocate(size, Allocator::Cuda);
  return ended(*address != nullptr ? cudaSuccess : cudaErrorMemoryAllocation);
}

cudaError_t cudaFree(void* address) {
  if (const cudaError_t error = entered("cudaFree")) return error;
  if (address == nullptr) return cudaSuccess;
  return ended(release(address, Allocator::Cuda, "cudaFree") ? cudaSuccess : cudaErrorInvalidValue);
}

/// Memory of the host, which the doubles watch as they do a device's.
cudaError_t cudaHostAlloc(void** address, size_t size, unsigned int flags) {
  if (const cudaError_t error = entered("cudaHostAlloc")) return error;
  if (flags != cudaHostAllocDefault) return ended(cudaErrorInvalidValue);
  *address = nullptr;
  if (size == 0) return cudaSuccess;
  *address = allocate(size, Allocator::Host);
  return ended(*address != nullptr ? cudaSuccess : cudaErrorMemoryAllocation);
}

cudaError_t cudaFreeHost(void* address) {
  if (const cudaError_t error = entered("cudaFreeHost")) return error;
  if (address == nullptr) return cudaSuccess;
  return ended(release(address, Allocator::Host, "cudaFreeHost") ? cudaSuccess
                                                                 : cudaErrorInvalidValue);
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t size, cudaMemcpyKind kind,
                            cudaStream_t handle) {
  if (const cudaError_t error = entered("cudaMemcpyAsync")) return error;
  const cudaStream_t stream = find_stream(handle, "cudaMemcpyAsync");
  if (stream == nullptr) return ended(cudaErrorInvalidResourceHandle);
  if (kind < cudaMemcpyHostToHost || kind > cudaMemcpyDefault) return ended(cudaErrorInvalidValue);
  stream->worker.push(
      [=, to_use = use_of_any(to, size, "cudaMemcpyAsync"),
       from_use = use_of_any(from, size, "cudaMemcpyAsync")] { copy_bytes(to, from, size); });
  return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void* address, int value, size_t size, cudaStream_t handle) {
  if (const cudaError_t error = entered("cudaMemsetAsync")) return error;
  const cudaStream_t stream = find_stream(handle, "cudaMemsetAsync");
  if (stream == nullptr) return ended(cudaErrorInvalidResourceHandle);
  stream->worker.push([=, use = use_of_any(address, size, "cudaMemsetAsync")] {
    fill_bytes(address, static_cast<unsigned char>(value), size);
  });
  return cudaSuccess;
}

}  // extern "C"
