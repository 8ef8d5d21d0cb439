#include "base/memory_left.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <fstream>
#include <limits>
#include <sstream>
#include <string_view>
#include <vector>

namespace kolo::core {
namespace {

constexpr std::uint64_t kUnlimited = std::numeric_limits<std::uint64_t>::max();

/// In memory.stat: caches of files, which the kernel gives up first.
constexpr std::string_view kCachesOfV1[] = {"total_inactive_file", "total_active_file"};
constexpr std::string_view kCachesOfV2[] = {"inactive_file", "active_file"};

/// A file with one number; "max" and what cannot be read are no limit.
std::uint64_t read_number(const std::string& path, std::uint64_t otherwise) {
  std::ifstream file(path);
  std::uint64_t number = 0;
  return file >> number ? number : otherwise;
}

/// Of a file of lines "name number" or "name: number unit"; 0 when it has no such line.
std::uint64_t read_entry(const std::string& path, std::string_view name) {
  std::ifstream file(path);
  std::string line;
  while (std::getline(file, line)) {
    std::istringstream words(line);
    std::string word;
    std::uint64_t number = 0;
    if (words >> word >> number && word == name) return number;
  }
  return 0;
}

/// Where a hierarchy of cgroups is mounted, and which of its folders is there.
struct Mount {
  std::string point;
  std::string top;
  bool v2 = false;
};

/// Of the hierarchies that limit memory: both may be there. (mountinfo: see proc(5).)
std::vector<Mount> find_mounts(const std::string& root) {
  std::vector<Mount> mounts;
  std::ifstream file(root + "/proc/self/mountinfo");
  std::string line;
  while (std::getline(file, line)) {
    std::istringstream words(line);
    std::string skipped, top, point, word, type, source, options;
    words >> skipped >> skipped >> skipped >> top >> point;
    while (words >> word && word != "-") {
    }
    words >> type >> source >> options;
    const bool v1 =
        type == "cgroup" && fmt::format(",{},", options).find(",memory,") != std::string::npos;
    if (v1 || type == "cgroup2") mounts.push_back({point, top, type == "cgroup2"});
  }
  return mounts;
}

/// This process's cgroup in that hierarchy. (Lines "number:controllers:path"; without controllers
/// in v2.)
std::string find_group(const std::string& root, bool v2) {
  std::ifstream file(root + "/proc/self/cgroup");
  std::string line;
  while (std::getline(file, line)) {
    const std::size_t first = line.find(':');
    const std::size_t second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = fmt::format(",{},", line.substr(first + 1, second - first - 1));
    const bool found = v2 ? controllers == ",," : controllers.find(",memory,") != std::string::npos;
    if (found) return line.substr(second + 1);
  }
  return "/";
}

MemoryLeft left_in_group(const std::string& folder, const std::string& group, bool v2) {
  const std::string limit_name = v2 ? "memory.max" : "memory.limit_in_bytes";
  const std::uint64_t limit = read_number(folder + "/" + limit_name, kUnlimited);
  MemoryLeft left{kUnlimited,
                  fmt::format("the cgroup {} ({} is {} bytes)", group, limit_name, limit)};
  if (limit == kUnlimited) return left;
  std::uint64_t usage =
      read_number(folder + (v2 ? "/memory.current" : "/memory.usage_in_bytes"), 0);
  for (const std::string_view cache : v2 ? kCachesOfV2 : kCachesOfV1) {
    usage -= std::min(usage, read_entry(folder + "/memory.stat", cache));
  }
  left.bytes = limit - std::min(limit, usage);
  return left;
}

/// From this process's up to the first one that can be seen.
void look_at_groups(const std::string& root, const Mount& mount, MemoryLeft& least) {
  std::string group = find_group(root, mount.v2);
  // A container may see its own part alone, but be told of its place in the whole.
  if ((group + "/").starts_with(mount.top + "/")) group.erase(0, mount.top.size());
  while (true) {
    if (group == "/") group.clear();
    MemoryLeft left =
        left_in_group(root + mount.point + group, group.empty() ? "/" : group, mount.v2);
    if (left.bytes < least.bytes) least = std::move(left);
    if (group.empty()) return;
    group.erase(group.rfind('/'));
  }
}

}  // namespace

MemoryLeft memory_left(const std::string& root) {
  const std::string host = root + "/proc/meminfo";
  constexpr std::uint64_t kKiB = 1024;
  const std::uint64_t available = read_entry(host, "MemAvailable:") * kKiB;
  MemoryLeft least{kUnlimited, "this host"};
  if (available > 0) least.bytes = available + read_entry(host, "SwapFree:") * kKiB;
  for (const Mount& mount : find_mounts(root)) look_at_groups(root, mount, least);
  return least;
}

Status memory_left_for(std::size_t bytes) {
  constexpr std::size_t kLookAfter = std::size_t{1} << 20;
  constexpr std::size_t kForTheRest = std::size_t{16} << 20;
  static std::atomic<std::size_t> unseen = 0;
  if (bytes < kLookAfter && unseen.fetch_add(bytes) + bytes < kLookAfter) return {};
  unseen = 0;
  const MemoryLeft left = memory_left();
  if (left.bytes >= kForTheRest && bytes <= left.bytes - kForTheRest) return {};
  return Status::error(
      fmt::format("{} bytes are wanted, but {} has only {} left, and {} of them are kept for the "
                  "rest of the program",
                  bytes, left.of, left.bytes, kForTheRest));
}

}  // namespace kolo::core
