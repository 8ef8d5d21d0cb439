#pragma once

/// Memory of this process, as the kernel counts it.

#include <cstdint>
#include <string_view>

namespace kolo::bench {

/// Physical memory that is not files' pages. Shared pages are divided among those that have them,
/// so the sum over all ranks is what the host has given.
struct MemoryUse {
  std::int64_t now = 0;
  /// What the process had at most, since the last forget_peak(), beyond what it has now.
  std::int64_t peak_beyond_now = 0;
};

/// @throws std::runtime_error where /proc does not tell.
MemoryUse memory_use();

/// Lets the peak begin anew, and gives freed memory back so that it does not hide what comes.
/// @throws std::runtime_error where /proc does not let it.
void forget_peak();

/// Bytes in the line `name: N kB` of such a file of /proc; -1 when there is none.
std::int64_t find_kilobytes(std::string_view text, std::string_view name);

}  // namespace kolo::bench
