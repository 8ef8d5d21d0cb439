#pragma once

/// How large an arena may be. Only what is in use of it takes memory (base/memory_left.h); the rest
/// is addresses, and they are limited, too.

#include <cstddef>
#include <string_view>

namespace kolo::core::shm {

struct ArenaLimit {
  std::size_t bytes = 0;
  /// For messages: what allows no more, if not the machine; else empty.
  std::string_view see;
};

/// Of the arenas of so many ranks, which this process all maps: as the machine's memory, the size
/// of files and the addresses of the process (of which half stay with the program) allow.
ArenaLimit largest_arena(int ranks);

}  // namespace kolo::core::shm
