#pragma once

/// Collective operations on tensors.
///
/// Each exists in a blocking form `x`, and as `x_async`, which returns a Work at once. A trailing
/// underscore means in place, as in LibTorch. Every rank of the process set must submit an
/// operation under the same name with matching kind, dtype, shape, op and root; otherwise it fails
/// with a kolo::Error on every rank that submitted it, and the process can go on. Operations may be
/// submitted in a different order on each rank. A name may be used again once its operation is
/// done; before that, it is an error on all ranks: each rank's n-th call under a name belongs to
/// the name's n-th operation.
///
/// An empty name is replaced by the kind and a running number, which is the same on all ranks as
/// long as they make their unnamed calls in the same order: name your tensors when several threads
/// submit. Within a host a blocking all-reduce whose name recurs is quicker: from the third time on
/// the ranks need not ask each other.
///
/// dtypes: uint8, int8, int16, int32, int64, float16, bfloat16, float32, float64, bool. float16 and
/// bfloat16 are accumulated in float32 and rounded once. Sums are taken in rank order, so results
/// do not depend on timing and are bit-identical on all ranks and from run to run. Of complex
/// tensors pass torch::view_as_real(tensor).
///
/// Collectives are no part of autograd's graph. The result of an out-of-place form does not require
/// grad; where autograd would have recorded it, a warning says once for each name that the graph
/// ends there. The in-place forms count as changes of the tensor: a backward that needs what it
/// held before fails, as after LibTorch's own in-place operations.
///
/// All functions are thread-safe. Tensors are dense, on the CPU or on kolo::local_device(); one
/// that is not contiguous is copied. One that is expanded cannot be reduced in place. On a GPU an
/// operation follows what the submitting thread's current stream has been given, as a kernel
/// launched there would, and reduces as NCCL does: not in rank order, and rounding to the dtype
/// what is reduced on the way, so that a float16 product may be infinite although a postscale would
/// have made it finite, and the sum of integers of an Average may wrap; Min and Max pass over NaN,
/// of which the CPU's result is NaN; int16 cannot be reduced. They throw kolo::Error before init()
/// and after shutdown().

#include <kolo/process_set.h>
#include <torch/types.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace kolo {

/// How values of all ranks become one. On bool tensors Sum and Max are a logical or, Product and
/// Min a logical and, and Average is an error. Average of integers truncates towards zero; on the
/// CPU it is right also where the sum would overflow.
enum class ReduceOp { Sum, Average, Min, Max, Product };

struct AllreduceOptions {
  std::string name = {};
  ReduceOp op = ReduceOp::Average;
  /// Factors for each rank's input and for the result; floating dtypes only.
  double prescale = 1.0;
  double postscale = 1.0;
  ProcessSet process_set = {};
};

struct BroadcastOptions {
  std::string name = {};
  ProcessSet process_set = {};
};

struct AllgatherOptions {
  std::string name = {};
  ProcessSet process_set = {};
};

struct ReducescatterOptions {
  std::string name = {};
  ReduceOp op = ReduceOp::Average;
  /// Factors for each rank's input and for the result; floating dtypes only.
  double prescale = 1.0;
  double postscale = 1.0;
  ProcessSet process_set = {};
};

struct AlltoallOptions {
  std::string name = {};
  /// Rows (along the first dimension) that go to each rank of the set, in rank order; they add up
  /// to the first dimension. Empty: as many to each.
  std::vector<std::int64_t> splits = {};
  ProcessSet process_set = {};
};

struct BarrierOptions {
  std::string name = {};
  ProcessSet process_set = {};
};

/// An operation under way. Keeps its tensors alive. A cheap handle: copies refer to the same
/// operation; a Work that is dropped lets the operation finish by itself. One that is
/// default-constructed refers to none: all that it is asked for is an error.
class Work {
 public:
  Work() = default;

  /// True when synchronize() will not block.
  bool done() const;

  /// Blocks until the operation is done: on a GPU, until it is in the GPU's queue and this thread's
  /// current stream will wait for it, so that what is launched from now on finds the result.
  /// @throws kolo::Error when it failed.
  void wait();

  /// Also blocks until the GPU has done it: for who reads the result without LibTorch. On the CPU,
  /// wait().
  void synchronize();

  /// Waits, and gives the output tensor (undefined for a barrier).
  torch::Tensor result();

  /// Waits. Of an all-to-all or an all-gather: how many rows of the result came from each rank of
  /// the set, in rank order; otherwise empty.
  std::vector<std::int64_t> received_splits();

  struct State;
  explicit Work(std::shared_ptr<State> state);

 private:
  State& state() const;

  std::shared_ptr<State> state_;
};

/// An uninitialised tensor in memory that the other ranks of this host can reach, or that NCCL
/// knows. It is all-reduced without a copy; otherwise it is as torch::empty() makes it, and may
/// outlive shutdown(). A child of fork() has a copy, which is made as it writes: until then it reads what
/// its parent has. Not collective. @throws kolo::Error when it is not to be dense, on the CPU
/// or on local_device(), or memory is short: of the host, or of a cgroup such as a container's.
torch::Tensor empty(torch::IntArrayRef sizes, const torch::TensorOptions& options = {});

/// Reduces tensors of equal shape and dtype over all ranks; every rank gets the result.
torch::Tensor allreduce(const torch::Tensor& tensor, const AllreduceOptions& options = {});
torch::Tensor& allreduce_(torch::Tensor& tensor, const AllreduceOptions& options = {});
Work allreduce_async(const torch::Tensor& tensor, const AllreduceOptions& options = {});
/// The tensor must be left alone until the work is done.
Work allreduce_async_(torch::Tensor& tensor, const AllreduceOptions& options = {});

/// Gives every rank the root's tensor. `root_rank` is a global rank and a member of the set. All
/// ranks pass a tensor of the same shape and dtype.
torch::Tensor broadcast(const torch::Tensor& tensor, int root_rank,
                        const BroadcastOptions& options = {});
torch::Tensor& broadcast_(torch::Tensor& tensor, int root_rank,
                          const BroadcastOptions& options = {});
Work broadcast_async(const torch::Tensor& tensor, int root_rank,
                     const BroadcastOptions& options = {});
Work broadcast_async_(torch::Tensor& tensor, int root_rank, const BroadcastOptions& options = {});

/// Concatenates the ranks' tensors along the first dimension, in rank order. The first dimension may
/// differ between ranks (0 included), the others may not. A tensor without dimensions counts as [1].
torch::Tensor allgather(const torch::Tensor& tensor, const AllgatherOptions& options = {});
Work allgather_async(const torch::Tensor& tensor, const AllgatherOptions& options = {});

/// Reduces tensors of equal shape and dtype over all ranks of the set, and gives each rank a part
/// of the result: of n rows along the first dimension, and `size` ranks, n / size to each, and one
/// more to the first n % size ranks. These are the bits that an all-reduce gives (between hosts
/// with several ranks each: that one in plain rank order; on a GPU: NCCL's order). A tensor without
/// dimensions is an error.
torch::Tensor reducescatter(const torch::Tensor& tensor, const ReducescatterOptions& options = {});
Work reducescatter_async(const torch::Tensor& tensor, const ReducescatterOptions& options = {});

/// Cuts each rank's tensor along the first dimension into a part for each rank of the set, and
/// gives each rank its parts, concatenated in rank order. `splits` may differ between ranks (0
/// included), and so may the first dimension; dtype and the other dimensions may not. Without
/// splits the first dimension must be a multiple of the number of ranks. A tensor without
/// dimensions is an error.
torch::Tensor alltoall(const torch::Tensor& tensor, const AlltoallOptions& options = {});
Work alltoall_async(const torch::Tensor& tensor, const AlltoallOptions& options = {});

/// Returns when every rank of the set has called it.
void barrier(const BarrierOptions& options = {});
Work barrier_async(const BarrierOptions& options = {});

}  // namespace kolo
