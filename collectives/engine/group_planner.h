#pragma once

/// Which gradients travel together, and in which order: the groups of a plan. A pure function.

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/types.h"

namespace kolo::core {

struct PlannedTensor {
  DataType dtype = DataType::Float32;
  std::int64_t elements = 0;
};

/// Tensors that lie in one buffer and are reduced as one.
struct PlanGroup {
  struct Slot {
    /// Index of the tensor, and where it begins in the buffer, in elements.
    std::size_t tensor = 0;
    std::int64_t offset = 0;
  };
  DataType dtype = DataType::Float32;
  std::int64_t elements = 0;
  std::vector<Slot> slots;
};

/// Offsets in a group are multiples of this many bytes.
constexpr std::size_t kSlotAlignment = 64;

struct GroupLimits {
  /// Bytes of the first group: small, so that communication starts early.
  std::size_t first = std::size_t{1} << 20;
  /// Bytes of the others.
  std::size_t each = std::size_t{8} << 20;
};

/// Groups `tensors` in `order`, which names each once: the order in which their gradients become ready.
/// Neighbours of one dtype share a group up to the limit; a tensor beyond it has a group to itself.
std::vector<PlanGroup> plan_groups(std::span<const PlannedTensor> tensors,
                                   std::span<const std::size_t> order, const GroupLimits& limits);

}  // namespace kolo::core
