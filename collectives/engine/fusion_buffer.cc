#include "engine/fusion_buffer.h"

#include <algorithm>
#include <bit>
#include <new>
#include <utility>

namespace kolo::core {

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
  const std::size_t capacity = std::bit_ceil(std::max(bytes, std::size_t{4096}));
  FusionBuffer buffer{.memory = plane_.allocate(device_, capacity), .capacity = capacity};
  if (buffer.memory == nullptr) throw std::bad_alloc();
  return buffer;
}

void FusionBufferPool::give_back(FusionBuffer buffer) { free_.push_back(std::move(buffer)); }

}  // namespace kolo::core
