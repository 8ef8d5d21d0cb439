#include <c10/util/Type.h>
#include <kolo/distributed_optimizer.h>
#include <kolo/error.h>
#include <kolo/init.h>
#include <kolo/ops.h>
#include <kolo/state_sync.h>
#include <torch/torch.h>

#include <cstring>
#include <sstream>
#include <string>
#include <type_traits>
#include <typeinfo>
#include <vector>

#include "named_tensors.h"
#include "same_on_all_ranks.h"

namespace kolo {
namespace {

torch::optim::Optimizer& innermost(torch::optim::Optimizer& optimizer) {
  auto* wrapper = dynamic_cast<DistributedOptimizer*>(&optimizer);
  return wrapper == nullptr ? optimizer : wrapper->inner();
}

/// LibTorch's save() says nothing where an optimizer does not implement it, so only those known to.
bool can_be_saved(const torch::optim::Optimizer& optimizer) {
  return dynamic_cast<const torch::optim::SGD*>(&optimizer) != nullptr ||
         dynamic_cast<const torch::optim::Adam*>(&optimizer) != nullptr ||
         dynamic_cast<const torch::optim::AdamW*>(&optimizer) != nullptr ||
         dynamic_cast<const torch::optim::RMSprop*>(&optimizer) != nullptr ||
         dynamic_cast<const torch::optim::Adagrad*>(&optimizer) != nullptr;
}

/// What must be the same on all ranks, in words.
std::vector<std::string> describe(const torch::optim::Optimizer& optimizer) {
  std::vector<std::string> lines = {c10::demangle(typeid(optimizer).name())};
  for (const auto& group : optimizer.param_groups()) {
    lines.push_back(c10::str("a group of ", group.params().size(), " parameters"));
    for (const torch::Tensor& parameter : group.params()) {
      lines.push_back(detail::describe(parameter));
    }
  }
  return lines;
}

/// State by save(); options apart, because LibTorch's load() leaves them as they are.
std::string serialize(torch::optim::Optimizer& optimizer) {
  torch::serialize::OutputArchive archive;
  torch::serialize::OutputArchive state(archive.compilation_unit());
  optimizer.save(state);
  archive.write("state", state);
  for (std::size_t i = 0; i < optimizer.param_groups().size(); ++i) {
    torch::serialize::OutputArchive options(archive.compilation_unit());
    optimizer.param_groups()[i].options().serialize(options);
    archive.write("options" + std::to_string(i), options);
  }
  std::ostringstream stream;
  archive.save_to(stream);
  return stream.str();
}

/// The tensors of a parameter's state, of the optimizers in can_be_saved().
std::vector<torch::Tensor> tensors_of(const torch::optim::OptimizerParamState& state) {
  if (const auto* s = dynamic_cast<const torch::optim::SGDParamState*>(&state)) {
    return {s->momentum_buffer()};
  }
  if (const auto* s = dynamic_cast<const torch::optim::AdamParamState*>(&state)) {
    return {s->exp_avg(), s->exp_avg_sq(), s->max_exp_avg_sq()};
  }
  if (const auto* s = dynamic_cast<const torch::optim::AdamWParamState*>(&state)) {
    return {s->exp_avg(), s->exp_avg_sq(), s->max_exp_avg_sq()};
  }
  if (const auto* s = dynamic_cast<const torch::optim::RMSpropParamState*>(&state)) {
    return {s->square_avg(), s->momentum_buffer(), s->grad_avg()};
  }
  if (const auto* s = dynamic_cast<const torch::optim::AdagradParamState*>(&state)) {
    return {s->sum()};
  }
  return {};
}

/// LibTorch's key for a parameter's state is its address, which 1.13 writes as text.
template <typename Key>
Key key_of(const torch::Tensor& parameter) {
  if constexpr (std::is_same_v<Key, std::string>) {
    return c10::str(parameter.unsafeGetTensorImpl());
  } else {
    return parameter.unsafeGetTensorImpl();
  }
}

/// Moves each parameter's state to the parameter's device.
void move_to_parameters(torch::optim::Optimizer& optimizer) {
  for (const auto& group : optimizer.param_groups()) {
    for (const torch::Tensor& parameter : group.params()) {
      auto& states = optimizer.state();
      using Key = std::decay_t<decltype(states)>::key_type;
      const auto state = states.find(key_of<Key>(parameter));
      if (state == states.end()) continue;
      for (torch::Tensor& tensor : tensors_of(*state->second)) {
        if (tensor.defined()) tensor.set_data(tensor.to(parameter.device()));
      }
    }
  }
}

void deserialize(const torch::Tensor& bytes, torch::optim::Optimizer& optimizer) {
  torch::serialize::InputArchive archive;
  // The root's GPU may not be there under its number.
  archive.load_from(static_cast<const char*>(bytes.data_ptr()),
                    static_cast<std::size_t>(bytes.numel()), torch::kCPU);
  torch::serialize::InputArchive state;
  archive.read("state", state);
  optimizer.state().clear();
  optimizer.load(state);
  move_to_parameters(optimizer);
  for (std::size_t i = 0; i < optimizer.param_groups().size(); ++i) {
    torch::serialize::InputArchive options;
    archive.read("options" + std::to_string(i), options);
    optimizer.param_groups()[i].options().serialize(options);
  }
}

/// What a broadcast carries of a tensor: of a complex one, the pairs of its numbers.
torch::Tensor carried(const torch::Tensor& tensor) {
  const bool pairs = tensor.is_complex() && tensor.layout() == torch::kStrided;
  return pairs ? at::view_as_real(tensor.resolve_conj()) : tensor;
}

/// `what` the tensors are of, for messages.
void broadcast_all(const detail::NamedTensors& tensors, const std::string& what, int root_rank,
                   const ProcessSet& process_set) {
  const torch::NoGradGuard no_grad;
  detail::require_same_on_all_ranks("broadcast_parameters", what, detail::describe(tensors), {},
                                    process_set);
  std::vector<std::pair<torch::Tensor, Work>> works;
  for (const auto& [name, tensor] : tensors) {
    if (!tensor.defined()) continue;
    torch::Tensor numbers = carried(tensor);
    works.emplace_back(
        tensor, broadcast_async_(numbers, root_rank, {.name = name, .process_set = process_set}));
  }
  for (auto& [tensor, work] : works) {
    const torch::Tensor numbers = work.result();
    // Those of a lazy conjugate are a copy.
    if (tensor.is_conj()) tensor.copy_(at::view_as_complex(numbers));
  }
}

constexpr const char* kOfModule = "the module's parameters and buffers";

}  // namespace

void broadcast_parameters(torch::nn::Module& module, int root_rank, const ProcessSet& process_set) {
  broadcast_all(detail::parameters_and_buffers(module), kOfModule, root_rank, process_set);
}

void broadcast_parameters(torch::jit::Module& module, int root_rank,
                          const ProcessSet& process_set) {
  broadcast_all(detail::parameters_and_buffers(module), kOfModule, root_rank, process_set);
}

void broadcast_parameters(const std::vector<torch::Tensor>& tensors, int root_rank,
                          const ProcessSet& process_set) {
  detail::NamedTensors named;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    named.emplace_back("tensor/" + std::to_string(i), tensors[i]);
  }
  broadcast_all(named, "the tensors", root_rank, process_set);
}

void broadcast_optimizer_state(torch::optim::Optimizer& optimizer, int root_rank,
                               const ProcessSet& process_set) {
  const torch::NoGradGuard no_grad;
  torch::optim::Optimizer& inner = innermost(optimizer);
  std::string refusal;
  if (!can_be_saved(inner)) {
    refusal = c10::str("broadcast_optimizer_state: only SGD, Adam, AdamW, RMSprop and Adagrad are ",
                       "supported, not ", c10::demangle(typeid(inner).name()));
  }
  detail::require_same_on_all_ranks("broadcast_optimizer_state",
                                    "the optimizer's kind and parameter groups", describe(inner),
                                    refusal, process_set);
  const bool is_root = rank() == root_rank;
  const std::string serialized = is_root ? serialize(inner) : std::string();
  torch::Tensor size = torch::tensor(static_cast<std::int64_t>(serialized.size()));
  broadcast_(size, root_rank, {.name = "optimizer_state/size", .process_set = process_set});
  torch::Tensor bytes = torch::empty({size.item<std::int64_t>()}, torch::kUInt8);
  if (is_root) std::memcpy(bytes.data_ptr(), serialized.data(), serialized.size());
  broadcast_(bytes, root_rank, {.name = "optimizer_state/bytes", .process_set = process_set});
  if (!is_root) deserialize(bytes, inner);
  (void)innermost(optimizer);  // the wrapper gets the options, too
}

}  // namespace kolo
