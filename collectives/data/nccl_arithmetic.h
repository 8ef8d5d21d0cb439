#pragma once

/// Kolo's dtypes and reductions in NCCL's terms.

#include <nccl.h>

#include <optional>

#include "base/status.h"
#include "base/types.h"
#include "data/data_plane.h"

namespace kolo::core {

/// NCCL has no Bool, whose reductions are those of bytes that are 0 or 1, and no Int16, which is
/// moved as bytes, but not reduced.
struct NcclType {
  ncclDataType_t type = ncclInt8;
  /// Of `type`, in one element.
  std::int64_t parts = 1;
};
NcclType nccl_type(DataType dtype);

/// How NCCL does an all-reduce: the factors that it can apply itself are in the reduction, the
/// others are left to who packs and unpacks. NCCL rounds what it adds and multiplies to the dtype,
/// so factors go where nothing overflows on its way that the result would not: but for products.
struct NcclReduction {
  ncclRedOp_t op = ncclSum;
  /// Of each input, in the reduction itself (`op` is then to be made from it).
  std::optional<double> factor;
  double scale_before = 1.0;
  double scale_after = 1.0;
};
NcclReduction nccl_reduction(const Collective& collective);

/// A reduction of `comm` that multiplies each input by `factor`, and adds. To be destroyed after
/// use.
Result<ncclRedOp_t> make_scaled_sum(double factor, DataType dtype, ncclComm_t comm);

}  // namespace kolo::core
