#include <kolo/ops.h>
#include <kolo/state_sync.h>
#include <torch/torch.h>

#include "digest.h"
#include "named_tensors.h"
#include "same_on_all_ranks.h"

namespace kolo {
namespace {

bool is_averaged(const torch::Tensor& buffer) {
  return buffer.is_floating_point() || buffer.is_complex();
}

/// Such as the number of batches that a batch norm has seen.
bool is_count(const torch::Tensor& buffer) {
  return buffer.dim() == 0 && c10::isIntegralType(buffer.scalar_type(), /*includeBool=*/false);
}

}  // namespace

void average_buffers(torch::nn::Module& module, const ProcessSet& process_set) {
  const torch::NoGradGuard no_grad;
  const detail::NamedTensors buffers = detail::buffers(module);
  std::vector<std::string> lines = detail::describe(buffers);
  for (std::size_t i = 0; i < buffers.size(); ++i) {
    const torch::Tensor& buffer = buffers[i].second;
    if (!buffer.defined() || is_averaged(buffer) || is_count(buffer)) continue;
    lines[i] += c10::str(", which cannot be averaged and must be the same everywhere (digest ",
                         digest_of(buffer), ")");
  }
  detail::require_same_on_all_ranks(
      "kolo::average_buffers", "average_buffers(): the module's buffers", lines, {}, process_set);
  // All at once: those of a dtype travel together.
  std::vector<Work> works;
  for (const auto& [name, buffer] : buffers) {
    if (!buffer.defined() || !(is_averaged(buffer) || is_count(buffer))) continue;
    torch::Tensor values = buffer.is_complex() ? torch::view_as_real(buffer) : buffer;
    works.push_back(
        allreduce_async_(values, {.name = "average/" + name,
                                  .op = is_count(buffer) ? ReduceOp::Max : ReduceOp::Average,
                                  .process_set = process_set}));
  }
  for (Work& work : works) work.wait();
}

}  // namespace kolo
