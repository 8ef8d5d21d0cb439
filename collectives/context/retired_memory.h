#pragma once

/// A GPU's memory that nobody holds any more, although the GPU may still be at it.

#include <memory>
#include <mutex>
#include <vector>

#include "base/device.h"

namespace kolo::core {

/// Lets go of memory when the GPU has come to its last uses. Thread-safe.
class RetiredMemory {
 public:
  using Events = std::vector<std::shared_ptr<DeviceEvent>>;

  RetiredMemory() = default;
  /// Waits for the GPU.
  ~RetiredMemory();
  RetiredMemory(const RetiredMemory&) = delete;
  RetiredMemory& operator=(const RetiredMemory&) = delete;

  void add(std::shared_ptr<void> memory, Events last_uses);

  /// Lets go of what the GPU is done with.
  void sweep();

 private:
  struct Block {
    std::shared_ptr<void> memory;
    Events last_uses;
  };

  std::mutex mutex_;
  std::vector<Block> blocks_;  // guarded by mutex_
};

}  // namespace kolo::core
