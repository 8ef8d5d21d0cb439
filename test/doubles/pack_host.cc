// The copying kernel's launch, with a stream's thread in the place of its blocks.

#include <algorithm>
#include <utility>
#include <vector>

#include "doubles/cuda_calls.h"
#include "doubles/memory.h"
#include "doubles/pack_arithmetic.h"
#include "doubles/streams.h"

namespace kolo::core::cuda {
namespace {

namespace doubles = kolo::doubles;

/// One block's part of a copy.
Copy part_of(const Copy& copy, const PackFormat& format, std::int64_t block) {
  const std::int64_t most = block_elements(std::max(size_of(format.from), size_of(format.to)));
  const std::int64_t begin = block * most;
  const auto at = [&](DataType dtype) { return static_cast<std::size_t>(begin) * size_of(dtype); };
  return {static_cast<const std::byte*>(copy.from) + at(format.from),
          static_cast<std::byte*>(copy.to) + at(format.to), std::min(copy.count - begin, most)};
}

}  // namespace

cudaError_t launch_table(const CopyTable& table, const PackFormat& format, cudaStream_t handle) {
  if (const cudaError_t error = doubles::entered("launch_table")) return error;
  const cudaStream_t stream = doubles::find_stream(handle, "launch_table");
  if (stream == nullptr || stream->device != doubles::current_device()) {
    return doubles::ended(cudaErrorInvalidResourceHandle);
  }
  std::vector<doubles::Use> uses;
  for (int i = 0; i < table.size; ++i) {
    const Copy& copy = table.copies[i];
    const auto count = static_cast<std::size_t>(copy.count);
    uses.push_back(doubles::use_of_device(copy.from, count * size_of(format.from), stream->device,
                                          "launch_table"));
    uses.push_back(doubles::use_of_device(copy.to, count * size_of(format.to), stream->device,
                                          "launch_table"));
  }
  stream->worker.push([table, format, uses = std::move(uses)] {
    for (int i = 0; i < table.size; ++i) {
      const std::uint32_t blocks = table.first_block[i + 1] - table.first_block[i];
      for (std::uint32_t block = 0; block < blocks; ++block) {
        doubles::copy_elements(part_of(table.copies[i], format, block), format);
      }
    }
  });
  return cudaSuccess;
}

}  // namespace kolo::core::cuda
