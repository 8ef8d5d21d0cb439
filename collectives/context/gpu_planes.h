#pragma once

/// The GPU that a rank uses, and how its memory reaches the others'.

#include <memory>
#include <optional>

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
};

/// `host`: carries all-gathers of this rank's memory among any ranks.
GpuPlane connect_gpu(const Config& config, const Topology& topology,
                     std::shared_ptr<DataPlane> host);

}  // namespace kolo::core
