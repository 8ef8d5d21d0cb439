#include "graph_cut.h"

#include <torch/torch.h>

#include <mutex>
#include <set>

namespace kolo::detail {
namespace {

/// Whether it is the first time; of programs that number their names only the first ones count.
bool is_new(const std::string& label) {
  constexpr std::size_t kMostWarnings = 32;
  static std::mutex mutex;
  static std::set<std::string> labels;  // guarded by mutex
  const std::lock_guard lock(mutex);
  return labels.size() < kMostWarnings && labels.insert(label).second;
}

}  // namespace

void warn_of_graph_cut(core::Context& context, core::CollectiveKind kind, const std::string& name,
                       const torch::Tensor& tensor) {
  if (!tensor.defined() || !tensor.requires_grad() || !torch::GradMode::is_enabled()) return;
  const std::string label = name.empty() ? c10::str("an unnamed ", core::to_string(kind))
                                         : core::label({.name = name, .kind = kind});
  if (!is_new(label)) return;
  context.warn(
      c10::str(label,
               ": its tensor requires grad, but its result does not: autograd's graph ends "
               "here, and no gradient flows back through it. If that is meant, pass "
               "tensor.detach(); if not, what is computed from the result trains with wrong "
               "gradients."));
}

}  // namespace kolo::detail
