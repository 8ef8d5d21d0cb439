#include "shm/arena_limits.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>

#include "shm/heap.h"

namespace kolo::core::shm {
namespace {

// Of the 128 TiB that a process can map, for all arenas together.
constexpr std::size_t kAddresses = std::size_t{64} << 40;

std::size_t page() { return static_cast<std::size_t>(::sysconf(_SC_PAGESIZE)); }

std::size_t addresses_in_use() {
  std::ifstream file("/proc/self/statm");
  std::size_t pages = 0;
  return file >> pages ? pages * page() : 0;
}

void lower(ArenaLimit& limit, std::size_t bytes, std::string_view see) {
  if (bytes < limit.bytes) limit = {bytes, see};
}

}  // namespace

ArenaLimit largest_arena(int ranks) {
  const auto arenas = static_cast<std::size_t>(ranks);
  ArenaLimit limit{.bytes = kAddresses / arenas, .see = {}};
  lower(limit, static_cast<std::size_t>(std::max(::sysconf(_SC_PHYS_PAGES), 1L)) * page(), "");
  // Growing a file beyond its limit ends the process.
  rlimit set{};
  if (::getrlimit(RLIMIT_FSIZE, &set) == 0 && set.rlim_cur != RLIM_INFINITY) {
    lower(limit, set.rlim_cur, " (see ulimit -f)");
  }
  if (::getrlimit(RLIMIT_AS, &set) == 0 && set.rlim_cur != RLIM_INFINITY) {
    const std::size_t left = set.rlim_cur - std::min<std::size_t>(set.rlim_cur, addresses_in_use());
    lower(limit, left / 2 / arenas, " (see ulimit -v)");
  }
  limit.bytes = limit.bytes / Heap::kPage * Heap::kPage;
  return limit;
}

}  // namespace kolo::core::shm
