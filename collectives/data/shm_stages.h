#pragma once

/// Memory through which private bytes reach the other ranks.

#include <memory>
#include <vector>

#include "shm/arena.h"

namespace kolo::core {

/// Stages of one size in the own arena, kept for reuse. Used by one thread at a time.
class ShmStages {
 public:
  ShmStages(shm::Arena& arena, std::size_t bytes) : arena_(arena), bytes_(bytes) {}

  /// Null when there is no memory.
  std::shared_ptr<std::byte> take() {
    if (free_.empty()) return arena_.allocate(bytes_);
    std::shared_ptr<std::byte> stage = std::move(free_.back());
    free_.pop_back();
    return stage;
  }
  void give_back(std::shared_ptr<std::byte> stage) { free_.push_back(std::move(stage)); }

 private:
  shm::Arena& arena_;
  const std::size_t bytes_;
  std::vector<std::shared_ptr<std::byte>> free_;
};

}  // namespace kolo::core
