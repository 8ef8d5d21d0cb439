#include "base/types.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cstdlib>

namespace kolo::core {

std::string_view to_string(DataType dtype) {
  switch (dtype) {
    case DataType::UInt8:
      return "uint8";
    case DataType::Int8:
      return "int8";
    case DataType::Int16:
      return "int16";
    case DataType::Int32:
      return "int32";
    case DataType::Int64:
      return "int64";
    case DataType::Float16:
      return "float16";
    case DataType::BFloat16:
      return "bfloat16";
    case DataType::Float32:
      return "float32";
    case DataType::Float64:
      return "float64";
    case DataType::Bool:
      return "bool";
  }
  std::abort();
}

std::string_view to_string(ReduceOp op) {
  switch (op) {
    case ReduceOp::Sum:
      return "Sum";
    case ReduceOp::Average:
      return "Average";
    case ReduceOp::Min:
      return "Min";
    case ReduceOp::Max:
      return "Max";
    case ReduceOp::Product:
      return "Product";
  }
  std::abort();
}

std::string_view to_string(CollectiveKind kind) {
  switch (kind) {
    case CollectiveKind::Allreduce:
      return "allreduce";
    case CollectiveKind::Broadcast:
      return "broadcast";
    case CollectiveKind::Allgather:
      return "allgather";
    case CollectiveKind::Reducescatter:
      return "reducescatter";
    case CollectiveKind::Alltoall:
      return "alltoall";
    case CollectiveKind::Barrier:
      return "barrier";
    case CollectiveKind::AddProcessSet:
      return "add_process_set";
  }
  std::abort();
}

std::string_view to_string(DeviceType device) {
  switch (device) {
    case DeviceType::Cpu:
      return "cpu";
    case DeviceType::Cuda:
      return "cuda";
  }
  std::abort();
}

std::int64_t element_count(const Shape& shape) {
  std::int64_t count = 1;
  for (const std::int64_t extent : shape) count *= extent;
  return count;
}

std::string to_string(const Shape& shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

}  // namespace kolo::core
