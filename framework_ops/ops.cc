#include <c10/util/safe_numerics.h>
#include <kolo/error.h>
#include <kolo/init.h>
#include <kolo/ops.h>
#include <torch/torch.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <utility>

#include "bridge.h"
#include "device.h"
#include "global.h"
#include "graph_cut.h"
#include "tensor_memory.h"

namespace kolo {
namespace {

/// Whether who submits an operation waits for it at once.
enum class Caller { GoesOn, Waits };

detail::Call call_of(const AllreduceOptions& options, Caller caller) {
  return {.kind = core::CollectiveKind::Allreduce,
          .name = options.name,
          .process_set = options.process_set,
          .awaited = caller == Caller::Waits,
          .op = options.op,
          .prescale = options.prescale,
          .postscale = options.postscale};
}

detail::Call call_of(const BroadcastOptions& options, int root_rank, Caller caller) {
  return {.kind = core::CollectiveKind::Broadcast,
          .name = options.name,
          .process_set = options.process_set,
          .awaited = caller == Caller::Waits,
          .root_rank = root_rank};
}

bool is_fit(const torch::Tensor& tensor) {
  return detail::refusal(*detail::current_context(), tensor).empty();
}

/// A new tensor for the result; undefined where `tensor` is not fit to be an input.
torch::Tensor output_like(const torch::Tensor& tensor) {
  return is_fit(tensor) ? torch::empty_like(tensor.detach(), torch::MemoryFormat::Contiguous)
                        : torch::Tensor();
}

void warn_of_graph_cut(core::CollectiveKind kind, const std::string& name,
                       const torch::Tensor& tensor) {
  detail::warn_of_graph_cut(*detail::current_context(), kind, name, tensor);
}

Work start_allreduce(const torch::Tensor& tensor, const torch::Tensor& output,
                     const AllreduceOptions& options, Caller caller) {
  return detail::submit(detail::current_context(), call_of(options, caller), tensor, output);
}

Work start_broadcast(const torch::Tensor& tensor, int root_rank, const BroadcastOptions& options,
                     Caller caller) {
  return detail::submit(detail::current_context(), call_of(options, root_rank, caller), tensor,
                        tensor);
}

/// What a broadcast that leaves `tensor` as it is works on. It is in place, so the root's values
/// are copied first.
torch::Tensor copy_for_broadcast(const torch::Tensor& tensor, int root_rank,
                                 const BroadcastOptions& options) {
  warn_of_graph_cut(core::CollectiveKind::Broadcast, options.name, tensor);
  const torch::Tensor output = output_like(tensor);
  if (output.defined() && rank() == root_rank) output.copy_(tensor.detach());
  return output.defined() ? output : tensor;
}

Work start_allgather(const torch::Tensor& tensor, const AllgatherOptions& options, Caller caller) {
  warn_of_graph_cut(core::CollectiveKind::Allgather, options.name, tensor);
  const bool scalar = is_fit(tensor) && tensor.dim() == 0;
  return detail::submit(detail::current_context(),
                        {.kind = core::CollectiveKind::Allgather,
                         .name = options.name,
                         .process_set = options.process_set,
                         .awaited = caller == Caller::Waits},
                        scalar ? tensor.reshape({1}) : tensor, {});
}

Work start_reducescatter(const torch::Tensor& tensor, const ReducescatterOptions& options,
                         Caller caller) {
  warn_of_graph_cut(core::CollectiveKind::Reducescatter, options.name, tensor);
  return detail::submit(detail::current_context(),
                        {.kind = core::CollectiveKind::Reducescatter,
                         .name = options.name,
                         .process_set = options.process_set,
                         .awaited = caller == Caller::Waits,
                         .op = options.op,
                         .prescale = options.prescale,
                         .postscale = options.postscale},
                        tensor, {});
}

Work start_alltoall(const torch::Tensor& tensor, const AlltoallOptions& options, Caller caller) {
  warn_of_graph_cut(core::CollectiveKind::Alltoall, options.name, tensor);
  return detail::submit(detail::current_context(),
                        {.kind = core::CollectiveKind::Alltoall,
                         .name = options.name,
                         .process_set = options.process_set,
                         .awaited = caller == Caller::Waits,
                         .splits = options.splits},
                        tensor, {});
}

Work start_barrier(const BarrierOptions& options, Caller caller) {
  return detail::submit(detail::current_context(),
                        {.kind = core::CollectiveKind::Barrier,
                         .name = options.name,
                         .process_set = options.process_set,
                         .awaited = caller == Caller::Waits},
                        {}, {});
}

}  // namespace

torch::Tensor empty(torch::IntArrayRef sizes, const torch::TensorOptions& options) {
  const std::shared_ptr<core::Context> context = detail::current_context();
  torch::Device device = options.device();
  // Without a number it is this rank's.
  if (device == torch::Device(torch::kCUDA) && local_device().is_cuda()) device = local_device();
  if (options.layout() != torch::kStrided) {
    throw Error(c10::str("kolo::empty(): layout ", options.layout(),
                         " was asked for, but it makes dense tensors"));
  }
  const std::string refusal = detail::device_refusal(*context, device);
  if (!refusal.empty()) throw Error("kolo::empty(): " + refusal);
  if (std::ranges::any_of(sizes, [](std::int64_t size) { return size < 0; })) {
    throw Error(c10::str("kolo::empty(): a size is negative: ", sizes));
  }
  std::uint64_t bytes = 0;
  const bool overflows = c10::safe_multiplies_u64(sizes, &bytes) ||
                         c10::mul_overflows(bytes, options.dtype().itemsize(), &bytes);
  const core::Result<std::shared_ptr<void>> memory = overflows
                                                         ? core::Status::error("its size overflows")
                                                         : detail::allocate(context, device, bytes);
  if (!memory.ok()) {
    throw Error(c10::str("kolo::empty(): there is no memory for a tensor of ", sizes, ": ",
                         memory.status().message()));
  }
  return detail::tensor_in(memory.value(), 0, sizes, options.device(device));
}

torch::Tensor allreduce(const torch::Tensor& tensor, const AllreduceOptions& options) {
  warn_of_graph_cut(core::CollectiveKind::Allreduce, options.name, tensor);
  torch::Tensor output = output_like(tensor);
  if (!output.defined() || !output.is_cpu()) {
    return start_allreduce(tensor, output, options, Caller::Waits).result();
  }
  output.copy_(tensor.detach());
  return allreduce_(output, options);
}

torch::Tensor& allreduce_(torch::Tensor& tensor, const AllreduceOptions& options) {
  if (detail::can_run(options, tensor)) {
    detail::run_allreduce(*detail::current_context(), options, tensor);
  } else {
    start_allreduce(tensor, tensor, options, Caller::Waits).wait();
  }
  return tensor;
}

Work allreduce_async(const torch::Tensor& tensor, const AllreduceOptions& options) {
  warn_of_graph_cut(core::CollectiveKind::Allreduce, options.name, tensor);
  return start_allreduce(tensor, output_like(tensor), options, Caller::GoesOn);
}

Work allreduce_async_(torch::Tensor& tensor, const AllreduceOptions& options) {
  return start_allreduce(tensor, tensor, options, Caller::GoesOn);
}

torch::Tensor broadcast(const torch::Tensor& tensor, int root_rank,
                        const BroadcastOptions& options) {
  return start_broadcast(copy_for_broadcast(tensor, root_rank, options), root_rank, options,
                         Caller::Waits)
      .result();
}

torch::Tensor& broadcast_(torch::Tensor& tensor, int root_rank, const BroadcastOptions& options) {
  start_broadcast(tensor, root_rank, options, Caller::Waits).wait();
  return tensor;
}

Work broadcast_async(const torch::Tensor& tensor, int root_rank, const BroadcastOptions& options) {
  return start_broadcast(copy_for_broadcast(tensor, root_rank, options), root_rank, options,
                         Caller::GoesOn);
}

Work broadcast_async_(torch::Tensor& tensor, int root_rank, const BroadcastOptions& options) {
  return start_broadcast(tensor, root_rank, options, Caller::GoesOn);
}

torch::Tensor allgather(const torch::Tensor& tensor, const AllgatherOptions& options) {
  return start_allgather(tensor, options, Caller::Waits).result();
}

Work allgather_async(const torch::Tensor& tensor, const AllgatherOptions& options) {
  return start_allgather(tensor, options, Caller::GoesOn);
}

torch::Tensor reducescatter(const torch::Tensor& tensor, const ReducescatterOptions& options) {
  return start_reducescatter(tensor, options, Caller::Waits).result();
}

Work reducescatter_async(const torch::Tensor& tensor, const ReducescatterOptions& options) {
  return start_reducescatter(tensor, options, Caller::GoesOn);
}

torch::Tensor alltoall(const torch::Tensor& tensor, const AlltoallOptions& options) {
  return start_alltoall(tensor, options, Caller::Waits).result();
}

Work alltoall_async(const torch::Tensor& tensor, const AlltoallOptions& options) {
  return start_alltoall(tensor, options, Caller::GoesOn);
}

void barrier(const BarrierOptions& options) { start_barrier(options, Caller::Waits).wait(); }

Work barrier_async(const BarrierOptions& options) { return start_barrier(options, Caller::GoesOn); }

ProcessSet add_process_set(const std::vector<int>& ranks) {
  core::Submission submission;
  submission.awaited = true;
  submission.request.kind = core::CollectiveKind::AddProcessSet;
  submission.request.shape.assign(ranks.begin(), ranks.end());
  const std::shared_ptr<core::Work> work = detail::current_context()->submit(std::move(submission));
  if (const core::Status status = work->wait(); !status.ok()) throw Error(status.message());
  return ProcessSet(work->outcome().new_channel);
}

}  // namespace kolo
