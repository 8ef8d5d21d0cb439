#include "cuda/event.h"

#include <utility>

#include "cuda/check.h"

namespace kolo::core::cuda {

void Fate::fail(std::string error) {
  if (failed_.load(std::memory_order_relaxed)) return;
  error_ = std::move(error);
  failed_.store(true, std::memory_order_release);
}

Status Fate::status() const {
  return failed_.load(std::memory_order_acquire) ? Status::error(error_) : Status();
}

Result<std::shared_ptr<Event>> Event::record(cudaStream_t stream, EventKind kind) {
  const std::shared_ptr<Event> event(new Event(std::move(kind.fate)));
  const unsigned int flags = kind.timed ? cudaEventDefault : cudaEventDisableTiming;
  Status status =
      check(cudaEventCreateWithFlags(&event->event_, flags), "cudaEventCreateWithFlags");
  if (!status.ok()) return status;
  status = check(cudaEventRecord(event->event_, stream), "cudaEventRecord");
  if (!status.ok()) return status;
  return event;
}

Event::~Event() {
  // CUDA keeps it until what waits for it has done so.
  if (event_ != nullptr) (void)cudaEventDestroy(event_);
}

Result<bool> Event::reached() const {
  const cudaError_t error = cudaEventQuery(event_);
  // Asked afterwards: what was aborted is reached as well.
  if (Status status = fate(); !status.ok()) return status;
  if (error == cudaErrorNotReady) return false;
  if (Status status = check(error, "cudaEventQuery"); !status.ok()) return status;
  return true;
}

Status Event::synchronize() const {
  const Status status = check(cudaEventSynchronize(event_), "cudaEventSynchronize");
  return status.ok() ? fate() : status;
}

Status Event::make_wait(cudaStream_t stream) const {
  return check(cudaStreamWaitEvent(stream, event_, 0), "cudaStreamWaitEvent");
}

Result<std::chrono::nanoseconds> Event::since(const Event& earlier) const {
  float milliseconds = 0;
  const Status status =
      check(cudaEventElapsedTime(&milliseconds, earlier.event_, event_), "cudaEventElapsedTime");
  if (!status.ok()) return status;
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
      std::chrono::duration<float, std::milli>(milliseconds));
}

Status make_stream_wait(cudaStream_t stream, const DeviceEvent& event) {
  return dynamic_cast<const Event&>(event).make_wait(stream);
}

}  // namespace kolo::core::cuda
