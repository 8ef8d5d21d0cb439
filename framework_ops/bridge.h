#pragma once

/// LibTorch's tensors as the core's memory, and back.

#include <ATen/core/DimVector.h>
#include <kolo/ops.h>

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "context/context.h"

namespace kolo {

/// It lives until the operation is done, also when nobody waits for that.
struct Work::State {
  core::Work work;
  core::CollectiveKind kind = core::CollectiveKind::Allreduce;
  std::string name;
  /// The input's.
  at::DimVector shape;
  /// What the user gets, and what the operation writes: `output` itself if its elements lie in
  /// memory one after the other.
  torch::Tensor output;
  torch::Tensor staging;
  torch::TensorOptions options;
  /// Brings the outcome into `output`, once.
  std::once_flag collected;
  /// Of a GPU: when `output` is there. Null before that, and on the host.
  std::shared_ptr<core::DeviceEvent> finished;
  std::weak_ptr<core::Context> context;

  void finish();
  bool is_collected() const;
  void collect();
  void copy_to_output();
};

namespace detail {

/// What a collective is asked to do, before its tensors are known to be fit for it.
struct Call {
  core::CollectiveKind kind = core::CollectiveKind::Allreduce;
  std::string name;
  ProcessSet process_set;
  /// Who submits it waits for it at once: see core::Submission.
  bool awaited = false;
  /// Not 0: of this plan of the set, see core::Submission.
  core::PlanId plan = 0;
  /// For the timeline: what the tensor is made of.
  std::vector<core::Part> parts = {};
  /// See core::Submission.
  std::shared_ptr<core::OperationTimes> times = nullptr;
  /// See core::Submission, and what owns the memory that is copied.
  std::vector<core::DeviceCopy> pack = {};
  std::vector<torch::Tensor> packed = {};
  ReduceOp op = ReduceOp::Sum;
  double prescale = 1.0;
  double postscale = 1.0;
  int root_rank = 0;
  std::vector<std::int64_t> splits = {};
};

/// Submits `call`, reading `input` and writing `output`, which may be the same tensor. A barrier
/// has neither, and some kinds make their output (core::Outcome). A tensor that is not fit is
/// refused: the Work fails, here and on the ranks that would otherwise wait for this one.
Work submit(const std::shared_ptr<core::Context>& context, Call call, const torch::Tensor& input,
            const torch::Tensor& output);

/// Whether run_allreduce() can do it: nothing is to be refused, and the tensor's memory can be used
/// as it lies there, on the host.
bool can_run(const AllreduceOptions& options, const torch::Tensor& tensor);

/// Runs an all-reduce in place, and waits for it.
void run_allreduce(core::Context& context, const AllreduceOptions& options,
                   const torch::Tensor& tensor);

/// Empty when it is one of kolo::ReduceOp.
std::string refusal(ReduceOp op);
/// Of one that is.
core::ReduceOp to_core(ReduceOp op);
/// Of a tensor that is fit.
core::DataType to_core(torch::ScalarType dtype);

/// Why a tensor cannot take part in a collective, and what to do about it; empty when it can.
std::string refusal(const core::Context& context, const torch::Tensor& tensor);

}  // namespace detail
}  // namespace kolo
