#pragma once

/// The GPU that a rank uses, and how its memory reaches the others'.

#include <memory>
#include <optional>
#include <vector>

#include "base/config.h"
#include "base/status.h"
#include "base/topology.h"
#include "data/data_plane.h"

namespace kolo::core {

struct GpuPlane {
  /// See Context::gpu().
  Result<std::optional<int>> gpu = std::optional<int>();
  /// Null where there is no GPU to be used.
  std::shared_ptr<DataPlane> plane;
  /// For all-reduces and broadcasts between hosts, where that is another one.
  std::shared_ptr<DataPlane> between_hosts;
};

/// For the memory of the host.
struct HostPlanes {
  /// Carries all-gathers among any ranks.
  std::shared_ptr<DataPlane> any;
  /// Carries the steps of a hierarchical plane between hosts. Null where there is one host.
  std::shared_ptr<DataPlane> far;
  /// Of each rank, the lowest on its host; where there are several.
  std::vector<int> hosts;
};

GpuPlane connect_gpu(const Config& config, const Topology& topology, const HostPlanes& host);

}  // namespace kolo::core
