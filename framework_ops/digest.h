#pragma once

/// Numbers by which ranks compare what they hold.

#include <torch/types.h>

#include <cstddef>
#include <cstdint>

namespace kolo {

/// Of bytes, some GB/s. Values that differ have another one, but for one time in 2^64. `seed`: of
/// what came before.
std::uint64_t digest_of(const void* bytes, std::size_t size, std::uint64_t seed = 0);

/// Of its values, bit by bit, its shape and dtype; wherever it lies, and in whatever order.
std::uint64_t digest_of(const torch::Tensor& tensor);

}  // namespace kolo
