#pragma once

#include <cstdint>
#include <span>

#include "base/types.h"

namespace kolo::core {

/// data/reduce.h for the floating dtypes, with the widest vectors that the processor has.
void reduce_floats(DataType dtype, ReduceOp op, std::span<const void* const> inputs,
                   std::span<void* const> outputs, std::int64_t count, double prescale,
                   double postscale);

}  // namespace kolo::core
