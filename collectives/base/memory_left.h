#pragma once

/// How much memory this process may still take: so much as its host has, and the cgroups allow that
/// it is in, such as a container's. Who takes more is ended by the kernel, or another process is.

#include <cstddef>
#include <cstdint>
#include <string>

#include "base/status.h"

namespace kolo::core {

struct MemoryLeft {
  std::uint64_t bytes = 0;
  /// Of what, for messages.
  std::string of;
};

/// What is least: of the host, and of each cgroup (version 1 or 2) from this process's up to the
/// first. Reads files below `root` + "/proc" and "/sys". Thread-safe.
MemoryLeft memory_left(const std::string& root = "");

/// Success where `bytes` more are to be had, and some for the rest of the program. Looks once in 1
/// MiB that was asked for, so that small amounts cost nothing. Thread-safe.
Status memory_left_for(std::size_t bytes);

}  // namespace kolo::core
