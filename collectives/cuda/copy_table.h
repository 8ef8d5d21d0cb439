#pragma once

/// What one launch of the copying kernel is given: C++17, which every nvcc compiles.

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "base/device.h"
#include "base/types.h"

namespace kolo::core::cuda {

/// The two places are the same or do not overlap, and each is aligned to its elements.
using Copy = DeviceCopy;

/// Each element is read as `from`, multiplied, and rounded to nearest, ties to even, to `to`.
///
/// Float32 converts to Float16 and BFloat16, and those to each other and back; nothing else
/// converts. A factor other than 1 is for floating dtypes, and one of float32 unless the dtype is
/// Float64: the numbers are those of data/reduce.h. Without factor and conversion bytes are copied
/// as they are.
struct PackFormat {
  DataType from;
  DataType to;
  double scale = 1.0;
};

/// Copies, and the blocks of threads that make them: copy i has those from first_block[i] up to
/// first_block[i + 1], each of which makes `block_elements` of it, the last one what is left.
/// Kernel arguments may have 4 KiB.
struct CopyTable {
  static constexpr int kMostCopies = 128;

  int size = 0;
  std::uint32_t first_block[kMostCopies + 1] = {};
  Copy copies[kMostCopies] = {};
};

constexpr int kThreadsPerBlock = 256;
constexpr int kVectorBytes = 16;
constexpr int kVectorsPerThread = 4;

/// How many elements, of which the larger side has `element_size` bytes, a block of threads copies.
constexpr std::int64_t block_elements(std::size_t element_size) {
  return kThreadsPerBlock * kVectorsPerThread * kVectorBytes /
         static_cast<std::int64_t>(element_size);
}

/// Queues one launch. The table is well-formed and not empty.
cudaError_t launch_table(const CopyTable& table, const PackFormat& format, cudaStream_t stream);

}  // namespace kolo::core::cuda
