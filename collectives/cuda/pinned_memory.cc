#include "cuda/pinned_memory.h"

#include <cuda_runtime_api.h>
#include <fmt/format.h>

#include <algorithm>

#include "cuda/check.h"

namespace kolo::core::cuda {
namespace {

constexpr std::size_t kSmallestBlock = std::size_t{1} << 20;

}  // namespace

PinnedMemory::~PinnedMemory() {
  // Of what fails here nobody could make better use.
  for (const Block& block : all_) (void)cudaFreeHost(block.begin);
}

Result<PinnedMemory::Block> PinnedMemory::take(std::size_t bytes) {
  const auto fits =
      std::ranges::find_if(free_, [bytes](const Block& block) { return block.bytes >= bytes; });
  if (fits != free_.end()) {
    const Block block = *fits;
    free_.erase(fits);
    return block;
  }
  Block block{.bytes = std::max(bytes, kSmallestBlock)};
  void* begin = nullptr;
  const Status status = check(cudaHostAlloc(&begin, block.bytes, cudaHostAllocDefault),
                              fmt::format("cudaHostAlloc of {} bytes", block.bytes));
  if (!status.ok()) return status;
  block.begin = static_cast<std::byte*>(begin);
  all_.push_back(block);
  return block;
}

}  // namespace kolo::core::cuda
