// CUDA's calls about streams and events.

#include <chrono>

#include "doubles/cuda_calls.h"
#include "doubles/streams.h"

using namespace kolo::doubles;  // NOLINT(google-build-using-namespace)

namespace {

constexpr int kGreatestPriority = -5;

/// The event's handle, unless it was destroyed.
bool is_alive(cudaEvent_t event, const char* function) {
  if (event == nullptr) return false;
  if (!event->destroyed.load(std::memory_order_relaxed)) return true;
  report_misuse(std::string(function) + " of an event that was destroyed");
  return false;
}

}  // namespace

extern "C" {

cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  if (const cudaError_t error = entered("cudaDeviceGetStreamPriorityRange")) return error;
  if (least != nullptr) *least = 0;
  if (greatest != nullptr) *greatest = kGreatestPriority;
  return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned int flags) {
  if (const cudaError_t error = entered("cudaStreamCreateWithFlags")) return error;
  if (flags > cudaStreamNonBlocking) return ended(cudaErrorInvalidValue);
  *stream = create_stream(current_device());
  return cudaSuccess;
}

/// Priorities beyond the range are those at its ends.
cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned int flags, int) {
  if (const cudaError_t error = entered("cudaStreamCreateWithPriority")) return error;
  if (flags > cudaStreamNonBlocking) return ended(cudaErrorInvalidValue);
  *stream = create_stream(current_device());
  return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  if (const cudaError_t error = entered("cudaStreamDestroy")) return error;
  if (stream == nullptr) return ended(cudaErrorInvalidResourceHandle);
  if (destroy_stream(stream)) return cudaSuccess;
  report_misuse("cudaStreamDestroy of a stream that was destroyed");
  return ended(cudaErrorInvalidResourceHandle);
}

cudaError_t cudaStreamSynchronize(cudaStream_t handle) {
  if (const cudaError_t error = entered("cudaStreamSynchronize")) return error;
  const cudaStream_t stream = find_stream(handle, "cudaStreamSynchronize");
  if (stream == nullptr) return ended(cudaErrorInvalidResourceHandle);
  Record end;
  stream->worker.push([&end] { end.complete(); });
  end.wait();
  return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t handle, cudaEvent_t event, unsigned int flags) {
  if (const cudaError_t error = entered("cudaStreamWaitEvent")) return error;
  if (flags != cudaEventWaitDefault) return ended(cudaErrorInvalidValue);
  const cudaStream_t stream = find_stream(handle, "cudaStreamWaitEvent");
  if (stream == nullptr || !is_alive(event, "cudaStreamWaitEvent")) {
    return ended(cudaErrorInvalidResourceHandle);
  }
  Record* const record = newest_record(event);
  if (record == nullptr || wait_is_skipped()) return cudaSuccess;
  stream->worker.push([record] { record->wait(); });
  return cudaSuccess;
}

cudaError_t cudaLaunchHostFunc(cudaStream_t handle, cudaHostFn_t function, void* data) {
  if (const cudaError_t error = entered("cudaLaunchHostFunc")) return error;
  const cudaStream_t stream = find_stream(handle, "cudaLaunchHostFunc");
  if (stream == nullptr) return ended(cudaErrorInvalidResourceHandle);
  if (function == nullptr) return ended(cudaErrorInvalidValue);
  stream->worker.push([=] { function(data); });
  return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned int flags) {
  if (const cudaError_t error = entered("cudaEventCreateWithFlags")) return error;
  if ((flags & ~unsigned{cudaEventBlockingSync | cudaEventDisableTiming}) != 0) {
    return ended(cudaErrorInvalidValue);
  }
  *event = create_event(current_device(), (flags & cudaEventDisableTiming) == 0);
  return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  if (const cudaError_t error = entered("cudaEventDestroy")) return error;
  if (event == nullptr) return ended(cudaErrorInvalidResourceHandle);
  if (destroy_event(event)) return cudaSuccess;
  report_misuse("cudaEventDestroy of an event that was destroyed");
  return ended(cudaErrorInvalidResourceHandle);
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t handle) {
  if (const cudaError_t error = entered("cudaEventRecord")) return error;
  const cudaStream_t stream = find_stream(handle, "cudaEventRecord");
  if (stream == nullptr || !is_alive(event, "cudaEventRecord") || stream->device != event->device) {
    return ended(cudaErrorInvalidResourceHandle);
  }
  record(event, stream);
  return cudaSuccess;
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
  if (const cudaError_t error = entered("cudaEventQuery")) return error;
  if (!is_alive(event, "cudaEventQuery")) return ended(cudaErrorInvalidResourceHandle);
  Record* const record = newest_record(event);
  return record == nullptr || record->is_said_to_be_complete() ? cudaSuccess : cudaErrorNotReady;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  if (const cudaError_t error = entered("cudaEventSynchronize")) return error;
  if (!is_alive(event, "cudaEventSynchronize")) return ended(cudaErrorInvalidResourceHandle);
  if (Record* const record = newest_record(event)) record->wait();
  return cudaSuccess;
}

cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t start, cudaEvent_t end) {
  if (const cudaError_t error = entered("cudaEventElapsedTime")) return error;
  if (!is_alive(start, "cudaEventElapsedTime") || !is_alive(end, "cudaEventElapsedTime")) {
    return ended(cudaErrorInvalidResourceHandle);
  }
  const Record* const from = newest_record(start);
  const Record* const to = newest_record(end);
  if (from == nullptr || to == nullptr || !start->is_timed || !end->is_timed) {
    return ended(cudaErrorInvalidResourceHandle);
  }
  if (!from->is_complete() || !to->is_complete()) return cudaErrorNotReady;
  *milliseconds = std::chrono::duration<float, std::milli>(to->time() - from->time()).count();
  return cudaSuccess;
}

}  // extern "C"
