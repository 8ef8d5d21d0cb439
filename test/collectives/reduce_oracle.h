#pragma once

/// A second opinion on data/reduce.h: one element at a time, in wider types that are
/// rounded or wrapped after each step.

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/types.h"

namespace kolo::core::oracle {

struct Reduction {
  DataType dtype = DataType::Float32;
  ReduceOp op = ReduceOp::Sum;
  double prescale = 1.0;
  double postscale = 1.0;
};

using Bytes = std::vector<std::byte>;

/// Input vectors have the same size.
Bytes reduce(const Reduction& reduction, std::span<const Bytes> inputs);

/// The inputs of each host among themselves, then the hosts' results, both in order; `host_of` each
/// input. A mean is that of the hosts' means, weighted; of integers, and where each host has one
/// input, everything is reduced at once.
Bytes reduce_by_host(const Reduction& reduction, std::span<const Bytes> inputs,
                     std::span<const int> host_of);

/// Equal but for the bits of NaNs.
bool same_values(DataType dtype, const Bytes& a, const Bytes& b);

/// Numbers that make sums and products interesting: any bits for integers, and moderate magnitudes
/// for floating-point numbers. The same for the same seed.
Bytes random_values(DataType dtype, std::int64_t count, std::uint64_t seed);

/// Also NaNs and infinities, of floating-point numbers.
Bytes random_bits(DataType dtype, std::int64_t count, std::uint64_t seed);

/// `value` in each of `count` elements.
Bytes filled(DataType dtype, std::int64_t count, long double value);

long double value_at(DataType dtype, const Bytes& bytes, std::size_t index);

}  // namespace kolo::core::oracle
