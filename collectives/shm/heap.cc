#include "shm/heap.h"

#include <algorithm>
#include <iterator>

namespace kolo::core::shm {

std::optional<std::size_t> Heap::take(std::size_t bytes) {
  const std::size_t wanted = round_up(std::max(bytes, std::size_t{1}));
  const auto found =
      std::ranges::find_if(free_, [wanted](const auto& block) { return block.second >= wanted; });
  if (found == free_.end() || wanted < bytes) return std::nullopt;
  const auto [offset, size] = *found;
  free_.erase(found);
  if (size > wanted) free_.emplace(offset + wanted, size - wanted);
  return offset;
}

void Heap::give_back(std::size_t offset, std::size_t bytes) {
  auto block = free_.emplace(offset, round_up(std::max(bytes, std::size_t{1}))).first;
  const auto next = std::next(block);
  if (next != free_.end() && block->first + block->second == next->first) {
    block->second += next->second;
    free_.erase(next);
  }
  if (block == free_.begin()) return;
  const auto before = std::prev(block);
  if (before->first + before->second == block->first) {
    before->second += block->second;
    free_.erase(block);
  }
}

}  // namespace kolo::core::shm
