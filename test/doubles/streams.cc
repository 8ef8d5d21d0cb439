#include "doubles/streams.h"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <cstdint>

#include "doubles/control.h"

namespace kolo::doubles {
namespace {

struct Streams {
  std::mutex mutex;
  std::deque<CUstream_st> streams;
  std::deque<CUevent_st> events;
  /// Stream 0 of each device, once it was used.
  std::array<std::atomic<cudaStream_t>, kMostDevices> defaults = {};
};

Streams& all() {
  static Streams& instance = *new Streams;
  return instance;
}

/// With the lock.
cudaStream_t add_stream(int device) {
  const std::uint64_t seed = settings().seed * 1000 + all().streams.size();
  return &all().streams.emplace_back(device, Delays(seed, longest_delay_of(device)));
}

cudaStream_t default_stream(int device) {
  std::atomic<cudaStream_t>& place = all().defaults.at(static_cast<std::size_t>(device));
  if (cudaStream_t known = place.load(std::memory_order_acquire)) return known;
  const std::lock_guard lock(all().mutex);
  if (place.load(std::memory_order_relaxed) == nullptr) {
    place.store(add_stream(device), std::memory_order_release);
  }
  return place.load(std::memory_order_relaxed);
}

}  // namespace

cudaStream_t create_stream(int device) {
  const std::lock_guard lock(all().mutex);
  return add_stream(device);
}

cudaStream_t find_stream(cudaStream_t handle, std::string_view function, int device) {
  if (handle == nullptr || handle == cudaStreamLegacy) return default_stream(device);
  if (!handle->destroyed.load(std::memory_order_relaxed)) return handle;
  report_misuse(fmt::format("{} in a stream that was destroyed", function));
  return nullptr;
}

bool destroy_stream(cudaStream_t stream) {
  if (stream->destroyed.exchange(true, std::memory_order_relaxed)) return false;
  stream->worker.close();
  return true;
}

cudaEvent_t create_event(int device, bool is_timed) {
  const std::lock_guard lock(all().mutex);
  return &all().events.emplace_back(device, is_timed);
}

bool destroy_event(cudaEvent_t event) {
  return !event->destroyed.exchange(true, std::memory_order_relaxed);
}

Record& record(cudaEvent_t event, cudaStream_t stream) {
  const std::lock_guard lock(event->mutex);
  Record& record = event->records.emplace_back();
  stream->worker.push([&record] { record.complete(); });
  return record;
}

Record* newest_record(cudaEvent_t event) {
  const std::lock_guard lock(event->mutex);
  return event->records.empty() ? nullptr : &event->records.back();
}

int live_streams() {
  const std::lock_guard lock(all().mutex);
  const auto count = std::ranges::count_if(all().streams, [](const CUstream_st& stream) {
    return !stream.destroyed.load(std::memory_order_relaxed);
  });
  const auto defaults = std::ranges::count_if(
      all().defaults, [](const std::atomic<cudaStream_t>& stream) { return stream != nullptr; });
  return static_cast<int>(count - defaults);
}

int live_events() {
  const std::lock_guard lock(all().mutex);
  return static_cast<int>(std::ranges::count_if(all().events, [](const CUevent_st& event) {
    return !event.destroyed.load(std::memory_order_relaxed);
  }));
}

void reset_streams() {
  const std::lock_guard lock(all().mutex);
  for (CUstream_st& stream : all().streams) destroy_stream(&stream);
  for (CUstream_st& stream : all().streams) stream.worker.join();
  for (auto& stream : all().defaults) stream.store(nullptr, std::memory_order_relaxed);
  all().streams.clear();
  all().events.clear();
}

}  // namespace kolo::doubles
