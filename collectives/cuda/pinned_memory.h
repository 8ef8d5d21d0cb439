#pragma once

/// Memory of the host that a GPU copies to and from in its own time.

#include <cstddef>
#include <vector>

#include "base/status.h"

namespace kolo::core::cuda {

/// Blocks that are used again and again: CUDA takes long to make one. By one thread at a time.
class PinnedMemory {
 public:
  struct Block {
    std::byte* begin = nullptr;
    std::size_t bytes = 0;
  };

  PinnedMemory() = default;
  /// Frees all blocks, also those that were not given back.
  ~PinnedMemory();
  PinnedMemory(const PinnedMemory&) = delete;
  PinnedMemory& operator=(const PinnedMemory&) = delete;

  /// Of at least so many bytes. Who takes a block that others may still write to keeps it.
  Result<Block> take(std::size_t bytes);
  void give_back(Block block) { free_.push_back(block); }

 private:
  std::vector<Block> all_;
  std::vector<Block> free_;
};

}  // namespace kolo::core::cuda
