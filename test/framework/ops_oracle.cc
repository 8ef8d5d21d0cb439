#include "framework/ops_oracle.h"

namespace kolo::testing {
namespace {

double tolerance(torch::ScalarType dtype) {
  if (dtype == torch::kFloat16) return 2e-3;
  if (dtype == torch::kBFloat16) return 2e-2;
  if (dtype == torch::kFloat32) return 1e-6;
  if (dtype == torch::kFloat64) return 1e-14;
  return 0;
}

}  // namespace

torch::Tensor values(torch::IntArrayRef shape, torch::ScalarType dtype, int seed, int rank) {
  torch::Tensor numbers = random(shape, {seed, rank});
  if (dtype == torch::kBool) return numbers > 0;
  if (torch::isFloatingType(dtype)) return numbers.to(dtype);
  numbers = (numbers * 1.5).clamp(-3, 3);
  return (dtype == torch::kUInt8 ? numbers.abs() : numbers).to(dtype);
}

torch::Tensor own_values(torch::IntArrayRef shape, torch::ScalarType dtype, int seed) {
  return values(shape, dtype, seed, kolo::rank());
}

torch::Tensor reduced(torch::IntArrayRef shape, torch::ScalarType dtype, int seed, ReduceOp op,
                      const std::vector<int>& ranks) {
  const bool floating = torch::isFloatingType(dtype);
  std::vector<torch::Tensor> inputs;
  for (const int rank : ranks) {
    const torch::Tensor one = values(shape, dtype, seed, rank);
    inputs.push_back(one.to(floating ? torch::kFloat64 : torch::kInt64));
  }
  torch::Tensor result = inputs.front();
  for (std::size_t i = 1; i < inputs.size(); ++i) {
    switch (op) {
      case ReduceOp::Sum:
      case ReduceOp::Average:
        result = result + inputs[i];
        break;
      case ReduceOp::Min:
        result = torch::min(result, inputs[i]);
        break;
      case ReduceOp::Max:
        result = torch::max(result, inputs[i]);
        break;
      case ReduceOp::Product:
        result = result * inputs[i];
        break;
    }
  }
  if (op != ReduceOp::Average) return result.to(dtype);
  const auto size = static_cast<std::int64_t>(inputs.size());
  return (floating ? result / size : torch::div(result, size, "trunc")).to(dtype);
}

void expect_values(const torch::Tensor& actual, const torch::Tensor& expected) {
  ASSERT_TRUE(actual.defined());
  EXPECT_EQ(actual.sizes(), expected.sizes());
  EXPECT_EQ(actual.device(), expected.device());
  ASSERT_EQ(actual.scalar_type(), expected.scalar_type());
  EXPECT_LE(relative_difference(actual, expected), tolerance(expected.scalar_type()));
}

}  // namespace kolo::testing
