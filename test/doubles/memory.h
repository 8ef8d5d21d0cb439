#pragma once

/// Memory of devices: who uses it, and who must not.

#include <atomic>
#include <cstddef>
#include <string_view>
#include <utility>

#include "doubles/doubles.h"

namespace kolo::doubles {

enum class Allocator { Cuda, Host, Nccl };

struct Allocation {
  std::byte* begin;
  std::size_t size;
  int device;
  Allocator allocator;
  bool freed = false;
  /// Pieces of work that are queued or running. Relaxed, so that looking at it orders nothing.
  std::atomic<int> uses = 0;
  std::atomic<int> registrations = 0;
};

/// Queued or running work on memory of an allocation, or on none.
class Use {
 public:
  Use() = default;
  explicit Use(Allocation* allocation) : allocation_(allocation) { add(1); }
  Use(Use&& other) noexcept : allocation_(std::exchange(other.allocation_, nullptr)) {}
  Use& operator=(Use&& other) noexcept {
    std::swap(allocation_, other.allocation_);
    return *this;
  }
  ~Use() { add(-1); }

  const Allocation* allocation() const { return allocation_; }

 private:
  void add(int uses) {
    if (allocation_ != nullptr) allocation_->uses.fetch_add(uses, std::memory_order_relaxed);
  }

  Allocation* allocation_ = nullptr;
};

/// Poisoned memory of the current device, or null for want of it.
void* allocate(std::size_t size, Allocator allocator);
/// Poisons it again, and keeps it until reset. False if it is no such memory, or in use.
bool release(void* address, Allocator allocator, std::string_view function);

/// Whose memory of `device` a function is about to use; says it if it is none. None are right for 0
/// bytes, and for memory of the host where the settings allow it.
Use use_of_device(const void* address, std::size_t bytes, int device, std::string_view function);
/// The same for a copy, one side of which may be any memory.
Use use_of_any(const void* address, std::size_t bytes, std::string_view function);

/// Where a registration of memory is counted, or null.
Allocation* allocation_of(const void* address, std::size_t bytes);

int live_allocations();
void reset_memory();

}  // namespace kolo::doubles
