#pragma once

/// Memory in which small tensors travel together.

#include <cstddef>
#include <memory>
#include <vector>

#include "data/data_plane.h"

namespace kolo::core {

struct FusionBuffer {
  std::shared_ptr<std::byte> memory;
  std::size_t capacity = 0;
};

/// Keeps buffers for reuse, so that a training loop stops allocating after its first steps. Used by
/// one thread.
class FusionBufferPool {
 public:
  /// Memory comes from `plane`.
  FusionBufferPool(DataPlane& plane, DeviceType device) : plane_(plane), device_(device) {}

  /// A buffer of at least `bytes`: the smallest free one that is large enough, or a new one.
  Result<FusionBuffer> take(std::size_t bytes);
  void give_back(FusionBuffer buffer);

 private:
  DataPlane& plane_;
  const DeviceType device_;
  std::vector<FusionBuffer> free_;
};

}  // namespace kolo::core
