#pragma once

/// What the core says of a GPU's work without knowing its library.

#include <chrono>
#include <cstdint>

#include "base/status.h"

namespace kolo::core {

/// A moment in the work that a GPU was given. Made, and waited for by streams, by the code of the GPU;
/// others pass it on. Thread-safe.
class DeviceEvent {
 public:
  virtual ~DeviceEvent() = default;

  /// Whether the GPU has come there.
  virtual Result<bool> reached() const = 0;

  /// Returns when it has: for who needs the numbers on the host, not for the way of a gradient.
  virtual Status synchronize() const = 0;
};

/// `count` elements that are copied from one place of a GPU's memory to another.
struct DeviceCopy {
  const void* from = nullptr;
  void* to = nullptr;
  std::int64_t count = 0;
};

/// When a GPU had its turn at the parts of an operation, on the host's clock.
struct DeviceTimes {
  std::chrono::steady_clock::time_point started, packed, reduced, unpacked;
};

}  // namespace kolo::core
