#pragma once

/// Memory in which small tensors travel together.

#include <cstddef>
#include <cstdlib>
#include <memory>
#include <vector>

namespace kolo::core {

struct FreeDeleter {
  void operator()(void* memory) const { std::free(memory); }
};

struct FusionBuffer {
  std::unique_ptr<std::byte, FreeDeleter> memory;
  std::size_t capacity = 0;
};

/// New memory, aligned for every dtype and vector register.
FusionBuffer allocate_buffer(std::size_t bytes);

/// Keeps buffers for reuse, so that a training loop stops allocating after its first steps. Used by
/// one thread.
class FusionBufferPool {
 public:
  /// A buffer of at least `bytes`: the smallest free one that is large enough, or a new one.
  FusionBuffer take(std::size_t bytes);
  void give_back(FusionBuffer buffer);

 private:
  std::vector<FusionBuffer> free_;
};

}  // namespace kolo::core
