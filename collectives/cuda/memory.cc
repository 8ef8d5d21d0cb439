#include "cuda/memory.h"

#include <fmt/format.h>
#include <nccl.h>

#include <algorithm>
#include <iterator>

#include "cuda/check.h"
#include "cuda/stream.h"

namespace kolo::core::cuda {
namespace {

/// Of what fails here nobody could make better use.
void free_memory(std::byte* begin) { (void)ncclMemFree(begin); }

}  // namespace

std::shared_ptr<Memory> Memory::of_device(int device) {
  return std::shared_ptr<Memory>(new Memory(device));
}

Memory::~Memory() {
  free_released([](const Block&) { return true; });
}

Result<std::shared_ptr<std::byte>> Memory::allocate(std::size_t bytes) {
  const DeviceGuard guard(device_);
  if (!guard.status().ok()) return guard.status();
  const std::size_t size = std::max(bytes, std::size_t{1});
  void* memory = nullptr;
  const Status status =
      check(ncclMemAlloc(&memory, size),
            fmt::format("ncclMemAlloc of {} bytes of GPU {}", size, device_), nullptr);
  if (!status.ok()) return status;
  std::unique_ptr<std::byte, decltype(&free_memory)> owned(static_cast<std::byte*>(memory),
                                                           free_memory);
  {
    const std::lock_guard lock(mutex_);
    blocks_[owned.get()] = {owned.get(), size};
  }
  return std::shared_ptr<std::byte>(
      owned.release(), [self = shared_from_this()](std::byte* begin) { self->release(begin); });
}

void Memory::release(std::byte* begin) noexcept {
  const std::lock_guard lock(mutex_);
  released_.insert(blocks_.extract(begin));
}

std::optional<Memory::Block> Memory::find(const void* address) {
  const std::lock_guard lock(mutex_);
  auto after = blocks_.upper_bound(const_cast<std::byte*>(static_cast<const std::byte*>(address)));
  if (after == blocks_.begin()) return std::nullopt;
  const Block& block = std::prev(after)->second;
  if (address >= block.begin + block.bytes) return std::nullopt;
  return block;
}

void Memory::free_released(const std::function<bool(const Block&)>& forget) {
  Blocks leaving;
  {
    const std::lock_guard lock(mutex_);
    leaving.swap(released_);
  }
  if (leaving.empty()) return;
  const DeviceGuard guard(device_);
  for (auto block = leaving.begin(); block != leaving.end();) {
    const bool forgotten = forget(block->second);
    if (forgotten) free_memory(block->first);
    block = forgotten ? leaving.erase(block) : std::next(block);
  }
  const std::lock_guard lock(mutex_);
  released_.merge(leaving);
}

}  // namespace kolo::core::cuda
