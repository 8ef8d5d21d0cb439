#pragma once

#include <filesystem>
#include <optional>

namespace kolo::core {

/// How many cores' worth of time the cgroups of this process, such as a container's, leave to it, of either
/// version. Nothing: as much as there is. `root`: where the file system begins.
std::optional<double> cpu_quota(const std::filesystem::path& root = "/");

/// Of this many cores, as many as the quota is enough for; at least one.
int within_cpu_quota(int cores);

}  // namespace kolo::core
