#include "cuda/memory.h"

#include <nccl.h>

#include <algorithm>
#include <utility>

#include "cuda/stream.h"

namespace kolo::core::cuda {

std::shared_ptr<Memory> Memory::of_device(int device) {
  return std::shared_ptr<Memory>(new Memory(device));
}

Memory::~Memory() {
  for (const Block& block : released_) free(block);
}

std::shared_ptr<std::byte> Memory::allocate(std::size_t bytes) {
  const DeviceGuard guard(device_);
  if (!guard.status().ok()) return nullptr;
  void* memory = nullptr;
  const Block wanted{.bytes = std::max(bytes, std::size_t{1})};
  if (ncclMemAlloc(&memory, wanted.bytes) != ncclSuccess) return nullptr;
  auto* const begin = static_cast<std::byte*>(memory);
  {
    const std::lock_guard lock(mutex_);
    blocks_[begin] = {begin, wanted.bytes};
  }
  return {begin, [self = shared_from_this()](std::byte* block) { self->release(block); }};
}

void Memory::release(std::byte* begin) {
  const std::lock_guard lock(mutex_);
  const auto block = blocks_.find(begin);
  released_.push_back(block->second);
  blocks_.erase(block);
}

std::optional<Memory::Block> Memory::find(const void* address) {
  const std::lock_guard lock(mutex_);
  auto after = blocks_.upper_bound(const_cast<std::byte*>(static_cast<const std::byte*>(address)));
  if (after == blocks_.begin()) return std::nullopt;
  const Block& block = std::prev(after)->second;
  if (address >= block.begin + block.bytes) return std::nullopt;
  return block;
}

std::vector<Memory::Block> Memory::take_released() {
  const std::lock_guard lock(mutex_);
  return std::exchange(released_, {});
}

void Memory::free(const Block& block) const {
  const DeviceGuard guard(device_);
  // Nothing else could be done with it.
  (void)ncclMemFree(block.begin);
}

}  // namespace kolo::core::cuda
