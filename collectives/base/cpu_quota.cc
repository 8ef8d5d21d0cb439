#include "base/cpu_quota.h"

#include <algorithm>
#include <fstream>
#include <string>

namespace kolo::core {
namespace {

namespace fs = std::filesystem;

/// Version 2: "max 100000", or microseconds in a period.
std::optional<double> quota_in(const fs::path& folder) {
  std::ifstream limit(folder / "cpu.max");
  double quota = 0;
  double period = 0;
  if (limit >> quota >> period && quota > 0 && period > 0) return quota / period;
  std::ifstream quota_file(folder / "cpu.cfs_quota_us");  // version 1: -1 without
  std::ifstream period_file(folder / "cpu.cfs_period_us");
  if (quota_file >> quota && period_file >> period && quota > 0 && period > 0) {
    return quota / period;
  }
  return std::nullopt;
}

/// The least of a cgroup and those that it is in.
void take_least(const fs::path& mount, fs::path group, std::optional<double>& least) {
  while (true) {
    const auto quota = quota_in(mount / group.relative_path());
    if (quota) least = std::min(least.value_or(*quota), *quota);
    if (group.relative_path().empty()) return;
    group = group.parent_path();
  }
}

}  // namespace

std::optional<double> cpu_quota(const fs::path& root) {
  std::optional<double> least;
  std::ifstream groups(root / "proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {  // number:controllers:group
    const auto first = line.find(':');
    const auto second = line.find(':', first + 1);
    if (first == line.npos || second == line.npos) continue;
    std::string controllers = line.substr(first, second - first + 1);
    std::ranges::replace(controllers, ':', ',');
    const fs::path group = line.substr(second + 1);
    if (controllers == ",,") {
      take_least(root / "sys/fs/cgroup", group, least);
      take_least(root / "sys/fs/cgroup/unified", group, least);
    } else if (controllers.find(",cpu,") != controllers.npos) {
      for (const char* const mount : {"sys/fs/cgroup/cpu", "sys/fs/cgroup/cpu,cpuacct"}) {
        take_least(root / mount, group, least);
      }
    }
  }
  return least;
}

int within_cpu_quota(int cores) {
  const std::optional<double> quota = cpu_quota();
  return quota && *quota < cores ? std::max(1, static_cast<int>(*quota)) : cores;
}

}  // namespace kolo::core
