#pragma once

/// The vocabulary of the collectives: element types, reductions, kinds of operation.

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

namespace kolo::core {

/// Element types; LibTorch's real ones.
enum class DataType : std::uint8_t {
  UInt8,
  Int8,
  Int16,
  Int32,
  Int64,
  Float16,
  BFloat16,
  Float32,
  Float64,
  Bool,
};

/// How values of all ranks become one. On Bool, Sum and Max are a logical or, Product and Min a
/// logical and, and Average is refused.
enum class ReduceOp : std::uint8_t { Sum, Average, Min, Max, Product };

enum class CollectiveKind : std::uint8_t {
  Allreduce,
  Broadcast,
  Allgather,
  Reducescatter,
  Alltoall,
  Barrier,
  /// Agreement on a new process set. Its members travel as the request's shape.
  AddProcessSet,
};

/// Whether values of all ranks become one.
constexpr bool reduces(CollectiveKind kind) {
  return kind == CollectiveKind::Allreduce || kind == CollectiveKind::Reducescatter;
}

enum class DeviceType : std::uint8_t { Cpu, Cuda };

constexpr int kDataTypeCount = static_cast<int>(DataType::Bool) + 1;
constexpr int kReduceOpCount = static_cast<int>(ReduceOp::Product) + 1;
constexpr int kCollectiveKindCount = static_cast<int>(CollectiveKind::AddProcessSet) + 1;
constexpr int kDeviceTypeCount = static_cast<int>(DeviceType::Cuda) + 1;

/// Bytes of one element.
constexpr std::size_t size_of(DataType dtype) {
  switch (dtype) {
    case DataType::UInt8:
    case DataType::Int8:
    case DataType::Bool:
      return 1;
    case DataType::Int16:
    case DataType::Float16:
    case DataType::BFloat16:
      return 2;
    case DataType::Int32:
    case DataType::Float32:
      return 4;
    case DataType::Int64:
    case DataType::Float64:
      return 8;
  }
  std::abort();
}

constexpr bool is_floating(DataType dtype) {
  switch (dtype) {
    case DataType::Float16:
    case DataType::BFloat16:
    case DataType::Float32:
    case DataType::Float64:
      return true;
    case DataType::UInt8:
    case DataType::Int8:
    case DataType::Int16:
    case DataType::Int32:
    case DataType::Int64:
    case DataType::Bool:
      return false;
  }
  std::abort();
}

std::string_view to_string(DataType dtype);
std::string_view to_string(ReduceOp op);
std::string_view to_string(CollectiveKind kind);
std::string_view to_string(DeviceType device);

/// Extent of each dimension.
using Shape = std::vector<std::int64_t>;

/// Product of the dimensions; 1 for a shape without dimensions.
std::int64_t element_count(const Shape& shape);
std::string to_string(const Shape& shape);

/// A stream of operations among the ranks of a process set. Order is agreed within a channel only, and
/// channels never wait for each other. Channel 0 holds all ranks.
using ChannelId = std::uint32_t;
constexpr ChannelId kWorldChannel = 0;

/// A process set has a channel for what its ranks negotiate, whose id is the set's, and one for each of
/// its plans: operations that all of its ranks submit in the same order, so that nobody has to be asked.
constexpr ChannelId kMostProcessSets = 512;
/// Numbered from 1.
using PlanId = std::uint32_t;
constexpr PlanId kMostPlans = 8190;
/// Plans above those belong to names that recur (engine/recurrence.h).
constexpr PlanId kMostRecurringNames = 1024;
constexpr ChannelId plan_channel(ChannelId process_set, PlanId plan) {
  return plan * kMostProcessSets + process_set;
}
constexpr ChannelId process_set_of(ChannelId channel) { return channel % kMostProcessSets; }
constexpr bool belongs_to_name(ChannelId channel) {
  return channel / kMostProcessSets > kMostPlans;
}

}  // namespace kolo::core
