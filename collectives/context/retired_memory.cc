#include "context/retired_memory.h"

#include <algorithm>
#include <iterator>
#include <utility>

namespace kolo::core {
namespace {

/// A GPU that has failed does nothing any more.
bool is_over(const std::shared_ptr<DeviceEvent>& use) {
  const Result<bool> reached = use->reached();
  return !reached.ok() || reached.value();
}

}  // namespace

RetiredMemory::~RetiredMemory() {
  for (const Block& block : blocks_) {
    for (const auto& use : block.last_uses) (void)use->synchronize();
  }
}

void RetiredMemory::add(std::shared_ptr<void> memory, Events last_uses) {
  const std::lock_guard lock(mutex_);
  blocks_.push_back({std::move(memory), std::move(last_uses)});
}

void RetiredMemory::sweep() {
  // Destroyed after the lock is released.
  std::vector<Block> over;
  const std::lock_guard lock(mutex_);
  const auto first = std::partition(blocks_.begin(), blocks_.end(), [](const Block& block) {
    return !std::ranges::all_of(block.last_uses, is_over);
  });
  std::move(first, blocks_.end(), std::back_inserter(over));
  blocks_.erase(first, blocks_.end());
}

}  // namespace kolo::core
