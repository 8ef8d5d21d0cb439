#pragma once

/// The arithmetic of an all-reduce, the same for every plane.

#include <cstdint>
#include <span>

#include "base/types.h"

namespace kolo::core {

/// Every output[i] = postscale * op over members m, in order, of (prescale * inputs[m][i]).
///
/// The order of summation depends on nothing but the members, so a result does not depend on how
/// tensors were fused or cut into pieces. Float16 and BFloat16 are accumulated in float32 and
/// rounded once (to nearest, ties to even). Average divides by the number of inputs; of integers it
/// truncates towards zero. Integer overflow wraps (in an average of integers below 64 bits there is
/// none). Min and Max give NaN where any input has one, as LibTorch's do. Outputs may be among the
/// inputs, but must not overlap any in another way. Scale factors other than 1 are for floating
/// dtypes; Average is not for Bool.
void reduce(DataType dtype, ReduceOp op, std::span<const void* const> inputs,
            std::span<void* const> outputs, std::int64_t count, double prescale, double postscale);

}  // namespace kolo::core
