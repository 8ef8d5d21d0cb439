#pragma once

#include <kolo/ops.h>

namespace kolo::detail {

/// One number of each rank becomes one of all. Each caller has a name of its own, which recurs.
template <typename Number>
Number reduce_number(Number value, const char* name, ReduceOp op, const ProcessSet& process_set) {
  torch::Tensor tensor = torch::full({1}, value, c10::CppTypeToScalarType<Number>::value);
  allreduce_(tensor, {.name = name, .op = op, .process_set = process_set});
  return tensor.item<Number>();
}

}  // namespace kolo::detail
