#include "data/data_plane.h"

#include <algorithm>
#include <cstdlib>

namespace kolo::core {
namespace {

constexpr std::size_t kAlignment = 64;

}  // namespace

std::shared_ptr<std::byte> allocate_memory(std::size_t bytes) {
  // A multiple of the alignment, and not 0.
  const std::size_t size =
      (std::max(bytes, std::size_t{1}) + kAlignment - 1) / kAlignment * kAlignment;
  return {static_cast<std::byte*>(std::aligned_alloc(kAlignment, size)), std::free};
}

}  // namespace kolo::core
