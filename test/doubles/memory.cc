#include "doubles/memory.h"

#include <fmt/core.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <mutex>
#include <new>
#include <shared_mutex>

#include "doubles/bytes.h"
#include "doubles/control.h"

namespace kolo::doubles {
namespace {

constexpr std::align_val_t kAlignment{512};
/// Behind each allocation, so that a small reach beyond its end, which is reported, harms nobody.
constexpr std::size_t kGuard = 512;

/// By address. Those who look share the lock, which orders nothing between them.
struct Memory {
  std::shared_mutex mutex;
  std::map<std::uintptr_t, Allocation> allocations;
};

Memory& memory() {
  static Memory& instance = *new Memory;
  return instance;
}

std::uintptr_t number(const void* address) { return reinterpret_cast<std::uintptr_t>(address); }

/// The allocation in which the address lies. With the lock.
Allocation* find(const void* address) {
  auto after = memory().allocations.upper_bound(number(address));
  if (after == memory().allocations.begin()) return nullptr;
  Allocation& allocation = std::prev(after)->second;
  return number(address) < number(allocation.begin) + allocation.size ? &allocation : nullptr;
}

bool reaches_beyond(const Allocation& allocation, const void* address, std::size_t bytes) {
  return number(address) + bytes > number(allocation.begin) + allocation.size;
}

/// With the lock.
Use use(Allocation& allocation, const void* address, std::size_t bytes, std::string_view function) {
  if (allocation.freed) {
    report_misuse(fmt::format("{} of memory that was freed, {}", function, address));
  } else if (reaches_beyond(allocation, address, bytes)) {
    report_misuse(fmt::format(
        "{} of {} bytes from {} on, which reach beyond the allocation's {} "
        "bytes from {} on",
        function, bytes, address, allocation.size, static_cast<const void*>(allocation.begin)));
  }
  return Use(&allocation);
}

}  // namespace

void* allocate(std::size_t size, Allocator allocator) {
  auto* const begin =
      static_cast<std::byte*>(::operator new(size + kGuard, kAlignment, std::nothrow));
  if (begin == nullptr) return nullptr;
  std::memset(begin, kPoison, size + kGuard);
  const std::unique_lock lock(memory().mutex);
  Allocation& allocation = memory().allocations[number(begin)];
  allocation.begin = begin;
  allocation.size = size;
  allocation.device = current_device();
  allocation.allocator = allocator;
  return begin;
}

bool release(void* address, Allocator allocator, std::string_view function) {
  const std::unique_lock lock(memory().mutex);
  const auto found = memory().allocations.find(number(address));
  if (found == memory().allocations.end() || found->second.freed ||
      found->second.allocator != allocator) {
    report_misuse(fmt::format("{} of {}, which is not allocated by its counterpart", function,
                              static_cast<const void*>(address)));
    return false;
  }
  Allocation& allocation = found->second;
  if (const int uses = allocation.uses.load(std::memory_order_relaxed); uses != 0) {
    report_misuse(
        fmt::format("{} of memory that {} queued or running operations use", function, uses));
    return false;
  }
  if (allocation.registrations.load(std::memory_order_relaxed) != 0) {
    report_misuse(fmt::format("{} of memory that is registered with a communicator", function));
    return false;
  }
  fill_bytes(allocation.begin, kPoison, allocation.size);
  allocation.freed = true;
  return true;
}

Use use_of_device(const void* address, std::size_t bytes, int device, std::string_view function) {
  if (bytes == 0) return {};
  const std::shared_lock lock(memory().mutex);
  Allocation* const allocation = find(address);
  if (allocation == nullptr) {
    if (!settings().host_memory_allowed) {
      report_misuse(fmt::format("{} of {}, which is no device's memory", function, address));
    }
    return {};
  }
  if (allocation->device != device) {
    report_misuse(fmt::format("{} on device {} of memory of device {}", function, device,
                              allocation->device));
  }
  return use(*allocation, address, bytes, function);
}

Use use_of_any(const void* address, std::size_t bytes, std::string_view function) {
  if (bytes == 0) return {};
  const std::shared_lock lock(memory().mutex);
  Allocation* const allocation = find(address);
  return allocation == nullptr ? Use() : use(*allocation, address, bytes, function);
}

Allocation* allocation_of(const void* address, std::size_t bytes) {
  const std::shared_lock lock(memory().mutex);
  Allocation* const allocation = find(address);
  if (allocation == nullptr || allocation->freed || reaches_beyond(*allocation, address, bytes)) {
    return nullptr;
  }
  return allocation;
}

int live_allocations() {
  const std::shared_lock lock(memory().mutex);
  return static_cast<int>(std::ranges::count_if(
      memory().allocations, [](const auto& entry) { return !entry.second.freed; }));
}

void reset_memory() {
  const std::unique_lock lock(memory().mutex);
  for (const auto& [address, allocation] : memory().allocations) {
    ::operator delete(allocation.begin, kAlignment);
  }
  memory().allocations.clear();
}

}  // namespace kolo::doubles
