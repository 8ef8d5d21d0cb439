#include "engine/fusion_buffer.h"

#include <algorithm>
#include <bit>
#include <utility>

namespace kolo::core {

Result<FusionBuffer> FusionBufferPool::take(std::size_t bytes) {
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
  Result<std::shared_ptr<std::byte>> memory = plane_.allocate(device_, capacity);
  if (!memory.ok()) return memory.status();
  return FusionBuffer{.memory = std::move(memory).value(), .capacity = capacity};
}

void FusionBufferPool::give_back(FusionBuffer buffer) { free_.push_back(std::move(buffer)); }

}  // namespace kolo::core
