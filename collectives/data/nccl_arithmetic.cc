#include "data/nccl_arithmetic.h"

#include <cmath>
#include <cstdlib>
#include <limits>

#include "cuda/check.h"
#include "data/half.h"

namespace kolo::core {
namespace {

/// Whether a factor keeps the dtype's precision.
bool is_normal(double factor, DataType dtype) {
  const double magnitude = std::abs(factor);
  if (dtype == DataType::Float64) return std::isnormal(factor);
  const bool is_half = dtype == DataType::Float16;
  constexpr double kSmallestHalf = 6.103515625e-05;
  constexpr double kLargestHalf = 65504;
  return magnitude >= (is_half ? kSmallestHalf : double{std::numeric_limits<float>::min()}) &&
         magnitude <= (is_half ? kLargestHalf : double{std::numeric_limits<float>::max()});
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
  const NcclReduction unscaled{.scale_before = collective.prescale,
                               .scale_after = collective.postscale};
  const auto scaled_by = [&](double factor, ncclRedOp_t op) {
    // Beyond what the dtype can hold, the factors are those of the kernel that packs.
    NcclReduction scaled = unscaled;
    scaled.op = op;
    return is_normal(factor, collective.dtype) ? NcclReduction{.factor = factor} : scaled;
  };
  NcclReduction reduction = unscaled;
  switch (collective.op) {
    case ReduceOp::Sum:
      if (is_bool) return {.op = ncclMax};
      if (scale == 1.0) return {.op = ncclSum};
      return scaled_by(scale, ncclSum);
    case ReduceOp::Average:
      if (scale == 1.0) return {.op = ncclAvg};
      return scaled_by(scale / static_cast<double>(collective.ranks.size()), ncclAvg);
    case ReduceOp::Min:
      reduction.op = ncclMin;
      return reduction;
    case ReduceOp::Max:
      reduction.op = ncclMax;
      return reduction;
    case ReduceOp::Product:
      reduction.op = is_bool ? ncclMin : ncclProd;
      return reduction;
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
  const ncclResult_t result = ncclRedOpCreatePreMulSum(&op, scalar, nccl_type(dtype).type,
                                                       ncclScalarHostImmediate, comm);
  const Status status = cuda::check(result, "ncclRedOpCreatePreMulSum", comm);
  if (!status.ok()) return status;
  return op;
}

}  // namespace kolo::core
