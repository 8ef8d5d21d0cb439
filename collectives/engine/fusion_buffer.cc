#include "engine/fusion_buffer.h"

#include <algorithm>
#include <bit>
#include <new>

#include "engine/fusion_planner.h"

namespace kolo::core {

FusionBuffer allocate_buffer(std::size_t bytes) {
  // A multiple of the alignment, and not 0.
  const std::size_t capacity = (std::max(bytes, std::size_t{1}) + kFusionAlignment - 1) / kFusionAlignment *
                               kFusionAlignment;
  auto* memory = static_cast<std::byte*>(std::aligned_alloc(kFusionAlignment, capacity));
  if (memory == nullptr) throw std::bad_alloc();
  return {.memory = std::unique_ptr<std::byte, FreeDeleter>(memory), .capacity = capacity};
}

FusionBuffer FusionBufferPool::take(std::size_t bytes) {
  auto best = free_.end();
  for (auto candidate = free_.begin(); candidate != free_.end(); ++candidate) {
    if (candidate->capacity < bytes) continue;
    if (best == free_.end() || candidate->capacity < best->capacity) best = candidate;
  }
  if (best != free_.end()) {
    FusionBuffer buffer = std::move(*best);
    free_.erase(best);
    return buffer;
  }
  // Powers of two, so that groups of slightly different size find each other's buffers.
  return allocate_buffer(std::bit_ceil(std::max(bytes, std::size_t{4096})));
}

void FusionBufferPool::give_back(FusionBuffer buffer) { free_.push_back(std::move(buffer)); }

}  // namespace kolo::core
