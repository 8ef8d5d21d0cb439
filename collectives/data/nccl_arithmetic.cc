#include "data/nccl_arithmetic.h"

#include <cmath>
#include <cstdlib>
#include <limits>

#include "cuda/check.h"
#include "data/half.h"

namespace kolo::core {
namespace {

/// The factors that keep the dtype's precision, by their magnitude.
struct Normal {
  double smallest;
  double largest;
};

Normal normal_factors(DataType dtype) {
  if (dtype == DataType::Float16) return {.smallest = 6.103515625e-05, .largest = 65504};
  if (dtype == DataType::Float64) {
    return {std::numeric_limits<double>::min(), std::numeric_limits<double>::max()};
  }
  return {std::numeric_limits<float>::min(), std::numeric_limits<float>::max()};
}

/// The sum of all inputs, times a factor.
NcclReduction scaled_sum(double factor, const Collective& collective) {
  if (factor == 1.0) return {.op = ncclSum};
  const Normal normal = normal_factors(collective.dtype);
  const double magnitude = std::abs(factor);
  if (magnitude < normal.smallest) {
    // A mean does not overflow.
    return {.op = ncclAvg, .scale_after = factor * static_cast<double>(collective.ranks.size())};
  }
  if (magnitude <= normal.largest) return {.factor = factor};
  return {.op = ncclSum, .scale_after = factor};
}

/// The result is an input: all factors can be applied to it, of which a negative one makes the
/// largest the smallest.
NcclReduction scaled_extreme(const Collective& collective) {
  const bool largest = (collective.op == ReduceOp::Max) == (collective.prescale >= 0);
  return {.op = largest ? ncclMax : ncclMin,
          .scale_after = collective.prescale * collective.postscale};
}

}  // namespace

NcclType nccl_type(DataType dtype) {
  switch (dtype) {
    case DataType::UInt8:
    case DataType::Bool:
      return {ncclUint8};
    case DataType::Int8:
      return {ncclInt8};
    case DataType::Int16:
      return {ncclUint8, 2};
    case DataType::Int32:
      return {ncclInt32};
    case DataType::Int64:
      return {ncclInt64};
    case DataType::Float16:
      return {ncclFloat16};
    case DataType::BFloat16:
      return {ncclBfloat16};
    case DataType::Float32:
      return {ncclFloat32};
    case DataType::Float64:
      return {ncclFloat64};
  }
  std::abort();
}

NcclReduction nccl_reduction(const Collective& collective) {
  const bool is_bool = collective.dtype == DataType::Bool;
  const double scale = collective.prescale * collective.postscale;
  switch (collective.op) {
    case ReduceOp::Sum:
      return is_bool ? NcclReduction{.op = ncclMax} : scaled_sum(scale, collective);
    case ReduceOp::Average:
      if (scale == 1.0) return {.op = ncclAvg};
      return scaled_sum(scale / static_cast<double>(collective.ranks.size()), collective);
    case ReduceOp::Min:
    case ReduceOp::Max:
      return scaled_extreme(collective);
    case ReduceOp::Product:
      return {.op = is_bool ? ncclMin : ncclProd,
              .scale_before = collective.prescale,
              .scale_after = collective.postscale};
  }
  std::abort();
}

Result<ncclRedOp_t> make_scaled_sum(double factor, DataType dtype, ncclComm_t comm) {
  const auto single = static_cast<float>(factor);
  Half half = to_half(single);
  BFloat16 bfloat = to_bfloat16(single);
  float float32 = single;
  void* scalar = nullptr;
  switch (dtype) {
    case DataType::Float16:
      scalar = &half;
      break;
    case DataType::BFloat16:
      scalar = &bfloat;
      break;
    case DataType::Float32:
      scalar = &float32;
      break;
    case DataType::Float64:
      scalar = &factor;
      break;
    case DataType::UInt8:
    case DataType::Int8:
    case DataType::Int16:
    case DataType::Int32:
    case DataType::Int64:
    case DataType::Bool:
      return Status::error("factors are for floating dtypes");
  }
  ncclRedOp_t op = ncclSum;
  const ncclResult_t result =
      ncclRedOpCreatePreMulSum(&op, scalar, nccl_type(dtype).type, ncclScalarHostImmediate, comm);
  const Status status = cuda::check(result, "ncclRedOpCreatePreMulSum", comm);
  if (!status.ok()) return status;
  return op;
}

}  // namespace kolo::core
