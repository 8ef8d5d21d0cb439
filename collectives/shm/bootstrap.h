#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "base/status.h"

namespace kolo::core::shm {

/// How the ranks of a host talk while they have no shared memory yet.
class Bootstrap {
 public:
  virtual ~Bootstrap() = default;

  /// Of this rank among those of its host, and how many they are.
  virtual int rank() const = 0;
  virtual int size() const = 0;

  /// What each rank has given, in order of ranks. Blocks until all have called it.
  virtual Result<std::vector<std::vector<std::byte>>> all_gather(
      std::span<const std::byte> own) = 0;

  /// Whether the ranks are threads of one process, which need no descriptors to share memory.
  virtual bool same_process() const = 0;
};

}  // namespace kolo::core::shm
