#include "bridge.h"

#include <kolo/error.h>
#include <torch/torch.h>

#include <optional>
#include <utility>

#include "base/names.h"
#include "device.h"
#include "tensor_memory.h"

namespace kolo {
namespace {

std::optional<core::DataType> find_type(torch::ScalarType dtype) {
  // LibTorch has many more, and new ones with each version.
  static const std::pair<torch::ScalarType, core::DataType> kTypes[] = {
      {torch::kUInt8, core::DataType::UInt8},       {torch::kInt8, core::DataType::Int8},
      {torch::kInt16, core::DataType::Int16},       {torch::kInt32, core::DataType::Int32},
      {torch::kInt64, core::DataType::Int64},       {torch::kFloat16, core::DataType::Float16},
      {torch::kBFloat16, core::DataType::BFloat16}, {torch::kFloat32, core::DataType::Float32},
      {torch::kFloat64, core::DataType::Float64},   {torch::kBool, core::DataType::Bool}};
  for (const auto& [torch_type, core_type] : kTypes) {
    if (torch_type == dtype) return core_type;
  }
  return std::nullopt;
}

std::optional<core::ReduceOp> find_op(ReduceOp op) {
  switch (op) {
    case ReduceOp::Sum:
      return core::ReduceOp::Sum;
    case ReduceOp::Average:
      return core::ReduceOp::Average;
    case ReduceOp::Min:
      return core::ReduceOp::Min;
    case ReduceOp::Max:
      return core::ReduceOp::Max;
    case ReduceOp::Product:
      return core::ReduceOp::Product;
  }
  return std::nullopt;
}

/// Whether there is memory for its elements. (LibTorch has dense tensors without: zeros that are
/// computed when they are needed, wrappers of other tensors, and what was resized to nothing.)
bool has_memory(const torch::Tensor& tensor) {
  return tensor.has_storage() && (tensor.numel() == 0 || tensor.storage().data() != nullptr);
}

/// Whether its elements lie in memory one after the other, with these values. (LibTorch keeps the
/// sign of some imaginary parts as a bit of the tensor.)
bool is_plain(const torch::Tensor& tensor) {
  return tensor.is_contiguous() && !tensor.is_neg() && !tensor.is_conj();
}

/// The tensor itself if it is plain, or a copy.
torch::Tensor plain(const torch::Tensor& tensor) {
  return is_plain(tensor) ? tensor : tensor.detach().resolve_conj().resolve_neg().contiguous();
}

/// Whether elements share a place in memory, as those of an expanded tensor do.
bool repeats_memory(const torch::Tensor& tensor) {
  for (std::int64_t i = 0; i < tensor.dim(); ++i) {
    if (tensor.size(i) > 1 && tensor.stride(i) == 0) return tensor.numel() > 0;
  }
  return false;
}

/// Autograd finds out by this when somebody needs the values that were there before. Tensors of
/// inference mode have no version.
void tell_autograd_of_change(const torch::Tensor& tensor) {
  if (!tensor.is_inference()) tensor.unsafeGetTensorImpl()->bump_version();
}

std::string find_refusal(const core::Context& context, const detail::Call& call,
                         const torch::Tensor& tensor, bool in_place) {
  std::string unfit = detail::refusal(context, tensor);
  if (!unfit.empty()) return unfit;
  if (in_place && repeats_memory(tensor)) {
    return c10::str("the tensor is expanded: elements share places in memory (sizes ",
                    tensor.sizes(), ", strides ", tensor.strides(),
                    "), so it cannot take the result in place: call contiguous() first");
  }
  return detail::refusal(call.op);
}

/// Moves the call's name and splits.
core::Request make_request(const core::Context& context, detail::Call& call,
                           const torch::Tensor& tensor, bool in_place) {
  core::Request request{.name = std::move(call.name),
                        .kind = call.kind,
                        .root_rank = call.root_rank,
                        .prescale = call.prescale,
                        .postscale = call.postscale,
                        .splits = std::move(call.splits)};
  if (call.kind == core::CollectiveKind::Barrier) return request;
  request.refusal = find_refusal(context, call, tensor, in_place);
  if (!request.refusal.empty()) return request;
  request.op = detail::to_core(call.op);
  request.device = detail::to_core(tensor.device());
  request.dtype = detail::to_core(tensor.scalar_type());
  request.shape = tensor.sizes().vec();
  return request;
}

}  // namespace

namespace detail {

std::string refusal(ReduceOp op) {
  if (find_op(op)) return {};
  return c10::str("reduce op ", static_cast<int>(op), " is not a value of kolo::ReduceOp");
}

core::ReduceOp to_core(ReduceOp op) { return find_op(op).value(); }

std::string refusal(const core::Context& context, const torch::Tensor& tensor) {
  if (!tensor.defined()) return "the tensor is undefined";
  if (tensor.is_nested()) {
    return "the tensor is a nested one, but only dense ones are supported: call to_padded_tensor() "
           "first";
  }
  if (tensor.layout() != torch::kStrided) {
    return c10::str("the tensor has layout ", tensor.layout(),
                    ", but only dense (strided) ones are supported: call to_dense() first");
  }
  std::string unfit_device = device_refusal(context, tensor.device());
  if (!unfit_device.empty()) return unfit_device;
  if (!find_type(tensor.scalar_type())) {
    return c10::str("dtype ", tensor.scalar_type(), " is not supported",
                    tensor.is_complex() ? ": pass torch::view_as_real(tensor), the pairs of its "
                                          "numbers, which can be summed up, averaged and passed on"
                                        : "");
  }
  if (!has_memory(tensor)) {
    return "the tensor has no memory for its elements (it is one of LibTorch's zeros without "
           "storage, a wrapper, or its storage was freed): call clone() first";
  }
  return {};
}

core::DataType to_core(torch::ScalarType dtype) { return find_type(dtype).value(); }

Work submit(const std::shared_ptr<core::Context>& context, Call call, const torch::Tensor& input,
            const torch::Tensor& output) {
  const torch::NoGradGuard no_grad;
  const bool in_place = output.defined() && output.is_same(input);
  auto state = std::make_shared<Work::State>();
  state->context = context;
  state->kind = call.kind;
  state->name = call.name;
  core::Submission submission{.channel = call.process_set.id(),
                              .plan = call.plan,
                              .request = make_request(*context, call, input, in_place),
                              .work = {state, &state->work},
                              .awaited = call.awaited,
                              .parts = std::move(call.parts),
                              .times = std::move(call.times)};
  if (submission.request.refusal.empty() && input.defined()) {
    state->shape = input.sizes();
    const torch::Tensor readable = plain(input);
    state->options = readable.options();
    if (output.defined()) {
      state->output = output;
      state->staging = in_place ? readable : output;
      submission.output = state->staging.data_ptr();
    }
    if (in_place) tell_autograd_of_change(output);
    submission.input = readable.data_ptr();
    submission.pack = std::move(call.pack);
    // The engine lets go of this, and of the state, when the GPU is done, and who gets the result
    // has its stream wait for that: so LibTorch's allocator need not be told that another stream
    // uses this memory (record_stream()).
    if (!readable.is_same(state->staging) || !call.packed.empty()) {
      call.packed.push_back(readable);
      submission.keepalive = std::make_shared<std::vector<torch::Tensor>>(std::move(call.packed));
    }
    if (readable.is_cuda()) submission.ready = record_event(current_stream(readable.device()));
  }
  context->submit(std::move(submission));
  return Work(std::move(state));
}

bool can_run(const AllreduceOptions& options, const torch::Tensor& tensor) {
  return tensor.defined() && tensor.layout() == torch::kStrided && tensor.is_cpu() &&
         !tensor.is_nested() && is_plain(tensor) && has_memory(tensor) &&
         find_type(tensor.scalar_type()) && find_op(options.op);
}

void run_allreduce(core::Context& context, const AllreduceOptions& options,
                   const torch::Tensor& tensor) {
  tell_autograd_of_change(tensor);
  const core::Status status =
      context.run({.process_set = options.process_set.id(),
                   .name = options.name,
                   .dtype = to_core(tensor.scalar_type()),
                   .op = to_core(options.op),
                   .prescale = options.prescale,
                   .postscale = options.postscale,
                   .shape = {tensor.sizes().data(), tensor.sizes().size()},
                   .memory = tensor.data_ptr(),
                   .owner = [&tensor] { return std::make_shared<torch::Tensor>(tensor); }});
  if (!status.ok()) throw Error(status.message());
}

}  // namespace detail

void Work::State::finish() {
  const core::Status status = work.wait();
  if (!status.ok()) throw Error(status.message());
  if (is_collected()) return;
  std::call_once(collected, [this] { collect(); });
  if (finished != nullptr) detail::make_wait(detail::current_stream(options.device()), *finished);
}

/// The operation has written `output` itself, and is done.
bool Work::State::is_collected() const {
  const core::Outcome& outcome = work.outcome();
  return outcome.made == nullptr && outcome.finished == nullptr && output.is_same(staging);
}

void Work::State::collect() {
  const torch::NoGradGuard no_grad;
  const core::Outcome& outcome = work.outcome();
  finished = outcome.finished;
  if (outcome.made != nullptr) {
    at::DimVector sizes = shape;
    sizes.front() = 0;
    for (const std::int64_t rows : outcome.first_dimensions) sizes.front() += rows;
    output = detail::tensor_in(detail::droppable(context.lock(), options.device(), outcome.made), 0,
                               sizes, options);
  } else if (!output.is_same(staging)) {
    copy_to_output();
  }
}

/// In the stream of who waits first; the others wait for the copy.
void Work::State::copy_to_output() {
  if (finished == nullptr) {
    output.detach().copy_(staging);
    return;
  }
  const c10::Stream stream = detail::current_stream(options.device());
  detail::make_wait(stream, *finished);
  output.detach().copy_(staging);
  // Nobody else waits for this use of it.
  staging.record_stream(stream);
  finished = detail::record_event(stream);
}

Work::Work(std::shared_ptr<State> state) : state_(std::move(state)) {}

Work::State& Work::state() const {
  if (state_ != nullptr) return *state_;
  throw Error("this kolo::Work is empty: assign it what an operation's _async form returns");
}

bool Work::done() const {
  if (!state().work.done()) return false;
  const std::shared_ptr<core::DeviceEvent>& finished = state().work.outcome().finished;
  if (finished == nullptr) return true;
  const core::Result<bool> reached = finished->reached();
  return !reached.ok() || reached.value();
}

void Work::wait() { state().finish(); }

void Work::synchronize() {
  wait();
  if (state().finished == nullptr) return;
  const core::Status status = state().finished->synchronize();
  if (!status.ok()) {
    throw Error(c10::str("'", core::shortened(state().name), "': ", status.message()));
  }
}

std::vector<std::int64_t> Work::received_splits() {
  wait();
  const core::CollectiveKind kind = state().kind;
  const bool gathers =
      kind == core::CollectiveKind::Allgather || kind == core::CollectiveKind::Alltoall;
  return gathers ? state().work.outcome().first_dimensions : std::vector<std::int64_t>();
}

torch::Tensor Work::result() {
  wait();
  return state().output;
}

}  // namespace kolo
