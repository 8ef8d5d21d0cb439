#pragma once

/// Which gradients travel together, and in which order: the groups of a plan. Pure functions.

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/types.h"
#include "engine/transfer_cost.h"

namespace kolo::core {

struct PlannedTensor {
  DataType dtype = DataType::Float32;
  std::int64_t elements = 0;
  DeviceType device = DeviceType::Cpu;
};

/// Groups in the order in which they run; of each, the indices of its tensors.
using Grouping = std::vector<std::vector<std::size_t>>;

/// Offsets in a group are multiples of this many bytes.
constexpr std::size_t kSlotAlignment = 64;

/// Bytes of a group's buffer.
std::size_t bytes_of(std::span<const PlannedTensor> tensors, std::span<const std::size_t> group);

struct GroupLimits {
  /// Bytes of the first group: small, so that communication starts early.
  std::size_t first = std::size_t{1} << 20;
  /// Bytes of the others.
  std::size_t each = std::size_t{8} << 20;
};

/// Groups `tensors` in `order`, which names each once: the order in which their gradients become
/// ready. Neighbours of one dtype and device share a group up to the limit; a tensor beyond it has
/// a group to itself.
Grouping group_by_size(std::span<const PlannedTensor> tensors, std::span<const std::size_t> order,
                       const GroupLimits& limits);

/// When the last group is done, in seconds. Groups run one after the other, each once its last tensor is ready:
/// `ready` says when, by tensor.
double predict_end(const Grouping& groups, std::span<const PlannedTensor> tensors,
                   std::span<const double> ready, const TransferCost& cost);

/// The groups that end earliest, of all that keep to `order`, to one dtype and device each, and to
/// `limit` bytes unless they are one tensor. Of those that end within a nanosecond of each other,
/// the fewest.
Grouping group_by_time(std::span<const PlannedTensor> tensors, std::span<const std::size_t> order,
                       std::span<const double> ready, const TransferCost& cost, std::size_t limit);

/// Tensors that lie in one buffer and are reduced as one.
struct PlanGroup {
  struct Slot {
    /// Index of the tensor, and where it begins in the buffer, in elements.
    std::size_t tensor = 0;
    std::int64_t offset = 0;
  };
  DataType dtype = DataType::Float32;
  DeviceType device = DeviceType::Cpu;
  std::int64_t elements = 0;
  std::vector<Slot> slots;
};

/// Where the tensors of a group lie.
PlanGroup lay_out(std::span<const PlannedTensor> tensors, std::span<const std::size_t> group);

}  // namespace kolo::core
