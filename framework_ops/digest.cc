#include "digest.h"

#include <torch/torch.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace kolo {

std::uint64_t digest_of(const void* bytes, std::size_t size, std::uint64_t seed) {
  return XXH3_64bits_withSeed(bytes, size, seed);
}

std::uint64_t digest_of(const torch::Tensor& tensor) {
  const torch::Tensor host = tensor.detach().cpu().contiguous();
  const auto dtype = static_cast<std::uint64_t>(host.scalar_type());
  const torch::IntArrayRef shape = host.sizes();
  const std::uint64_t seed = digest_of(shape.data(), shape.size() * sizeof(std::int64_t), dtype);
  return digest_of(host.data_ptr(), host.nbytes(), seed);
}

}  // namespace kolo
