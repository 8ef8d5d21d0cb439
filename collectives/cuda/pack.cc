#include "cuda/pack.h"

#include <fmt/core.h>

#include <algorithm>

namespace kolo::core::cuda {
namespace {

bool is_up_to_32_bits(DataType dtype) {
  return dtype == DataType::Float32 || dtype == DataType::Float16 || dtype == DataType::BFloat16;
}

Status check_format(const PackFormat& format) {
  if (format.from != format.to && !(is_up_to_32_bits(format.from) && is_up_to_32_bits(format.to))) {
    return Status::error(fmt::format("the copying kernel does not convert {} to {}",
                                     to_string(format.from), to_string(format.to)));
  }
  if (format.scale != 1.0 && !is_floating(format.from)) {
    return Status::error(fmt::format("the copying kernel does not multiply {} by {}",
                                     to_string(format.from), format.scale));
  }
  return {};
}

Status check_copy(const Copy& copy, const PackFormat& format) {
  if (copy.count < 0) return Status::error(fmt::format("a copy of {} elements", copy.count));
  const auto from = reinterpret_cast<std::uintptr_t>(copy.from);
  const auto to = reinterpret_cast<std::uintptr_t>(copy.to);
  const std::size_t from_size = size_of(format.from);
  const std::size_t to_size = size_of(format.to);
  if (from % from_size != 0 || to % to_size != 0) {
    return Status::error(fmt::format("a copy from {} ({}) to {} ({}) is not aligned to elements",
                                     copy.from, to_string(format.from), copy.to,
                                     to_string(format.to)));
  }
  const auto count = static_cast<std::size_t>(copy.count);
  const bool in_place = from == to && from_size == to_size;
  if (!in_place && from < to + count * to_size && to < from + count * from_size) {
    return Status::error(fmt::format("a copy of {} elements from {} ({}) to {} ({}) overlaps",
                                     count, copy.from, to_string(format.from), copy.to,
                                     to_string(format.to)));
  }
  return {};
}

Status launch(const CopyTable& table, const PackFormat& format, cudaStream_t stream) {
  if (table.size == 0) return {};
  const cudaError_t error = launch_table(table, format, stream);
  if (error == cudaSuccess) return {};
  return Status::error(fmt::format("cudaLaunchKernel of {} copies of {} to {} failed: {} ({})",
                                   table.size, to_string(format.from), to_string(format.to),
                                   cudaGetErrorString(error), cudaGetErrorName(error)));
}

}  // namespace

Status launch_copies(std::span<const Copy> copies, const PackFormat& format, cudaStream_t stream) {
  if (Status status = check_format(format); !status.ok()) return status;
  for (const Copy& copy : copies) {
    if (Status status = check_copy(copy, format); !status.ok()) return status;
  }
  const std::int64_t block = block_elements(std::max(size_of(format.from), size_of(format.to)));
  CopyTable table;
  for (const Copy& copy : copies) {
    if (copy.count == 0) continue;
    if (table.size == CopyTable::kMostCopies) {
      if (Status status = launch(table, format, stream); !status.ok()) return status;
      table.size = 0;
    }
    // No device has memory for as many blocks as do not fit into 32 bits.
    const auto blocks = static_cast<std::uint32_t>((copy.count + block - 1) / block);
    table.copies[table.size] = copy;
    table.first_block[table.size + 1] = table.first_block[table.size] + blocks;
    ++table.size;
  }
  return launch(table, format, stream);
}

}  // namespace kolo::core::cuda
