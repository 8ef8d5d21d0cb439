#pragma once

/// The arithmetic of an all-reduce, the same for every plane.

#include <cstdint>
#include <span>

#include "base/types.h"

namespace kolo::core {

/// outputs[k][i] = postscale * op over members m, in order, of (prescale * inputs[m][i]), for all
/// k.
///
/// The order of summation depends on nothing but the members, so a result does not depend on how
/// tensors were fused or cut into pieces, nor on what vectors the processor has. Float16 and
/// BFloat16 are accumulated in float32 and rounded once (to nearest, ties to even). Average divides
/// by the number of inputs; of integers it truncates towards zero. Integer overflow wraps (in an
/// average there is none). Min and Max give NaN where any input has one,
/// as LibTorch's do; which of several NaNs, and its bits, are not specified. An output may be one
/// of the inputs, also each of them, but must not overlap any in another way. Scale factors other
/// than 1 are for floating dtypes; Average is not for Bool.
void reduce(DataType dtype, ReduceOp op, std::span<const void* const> inputs,
            std::span<void* const> outputs, std::int64_t count, double prescale, double postscale);

}  // namespace kolo::core
