#pragma once

/// What collectives must give, computed in one process from all ranks' inputs.

#include <vector>

#include "framework/support.h"

namespace kolo::testing {

class OpsTest : public FrameworkTest {};

/// A rank's input: small numbers, so that integers do not overflow.
torch::Tensor values(torch::IntArrayRef shape, torch::ScalarType dtype, int seed, int rank);

/// This rank's.
torch::Tensor own_values(torch::IntArrayRef shape, torch::ScalarType dtype, int seed);

/// Of the ranks' inputs.
torch::Tensor reduced(torch::IntArrayRef shape, torch::ScalarType dtype, int seed, ReduceOp op,
                      const std::vector<int>& ranks);

/// The same, but for what the dtype's rounding explains.
void expect_values(const torch::Tensor& actual, const torch::Tensor& expected);

}  // namespace kolo::testing
