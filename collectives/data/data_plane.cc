#include "data/data_plane.h"

#include <algorithm>
#include <cstdlib>
#include <new>

namespace kolo::core {

std::shared_ptr<std::byte> DataPlane::allocate(std::size_t bytes) {
  // A multiple of the alignment, and not 0.
  const std::size_t size = (std::max(bytes, std::size_t{1}) + kMemoryAlignment - 1) /
                           kMemoryAlignment * kMemoryAlignment;
  void* const memory = std::aligned_alloc(kMemoryAlignment, size);
  if (memory == nullptr) throw std::bad_alloc();
  return {static_cast<std::byte*>(memory), std::free};
}

}  // namespace kolo::core
