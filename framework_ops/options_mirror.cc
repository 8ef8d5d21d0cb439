#include "options_mirror.h"

#include <kolo/error.h>
#include <torch/torch.h>

#include <algorithm>

namespace kolo::detail {
namespace {

using torch::optim::OptimizerOptions;

/// Calls `f(a, b)` with both as their real type, if that is T. Whether it is.
template <typename T, typename A, typename B, typename F>
bool with_type(A& a, B& b, const F& f) {
  auto* typed_a = dynamic_cast<T*>(&a);
  const auto* typed_b = dynamic_cast<const T*>(&b);
  if (typed_a == nullptr || typed_b == nullptr) return false;
  f(*typed_a, *typed_b);
  return true;
}

/// Whether they are of one of LibTorch's own types, and `f` was called.
template <typename F>
bool with_known_type(OptimizerOptions& a, const OptimizerOptions& b, const F& f) {
  return with_type<torch::optim::SGDOptions>(a, b, f) ||
         with_type<torch::optim::AdamOptions>(a, b, f) ||
         with_type<torch::optim::AdamWOptions>(a, b, f) ||
         with_type<torch::optim::RMSpropOptions>(a, b, f) ||
         with_type<torch::optim::AdagradOptions>(a, b, f) ||
         with_type<torch::optim::LBFGSOptions>(a, b, f);
}

bool has_learning_rate(const OptimizerOptions& options) {
  try {
    (void)options.get_lr();
    return true;
  } catch (const c10::Error&) {  // what the base class does
    return false;
  }
}

bool equal(OptimizerOptions& a, const OptimizerOptions& b) {
  bool same = true;
  if (with_known_type(a, b, [&same](const auto& x, const auto& y) { same = x == y; })) return same;
  return !has_learning_rate(a) || a.get_lr() == b.get_lr();
}

/// In place, because programs keep references to a group's options.
void assign(OptimizerOptions& target, const OptimizerOptions& source) {
  if (with_known_type(target, source, [](auto& x, const auto& y) { x = y; })) return;
  if (has_learning_rate(source)) target.set_lr(source.get_lr());
}

}  // namespace

OptionsMirror::OptionsMirror(torch::optim::Optimizer& wrapper, torch::optim::Optimizer& inner)
    : wrapper_(wrapper), inner_(inner) {
  for (const auto& group : inner.param_groups()) {
    last_.push_back(group.options().clone());
    parameters_.push_back(group.params());
  }
}

void OptionsMirror::reconcile() {
  require_unchanged_groups();
  for (std::size_t i = 0; i < last_.size(); ++i) {
    OptimizerOptions& wrapper = wrapper_.param_groups()[i].options();
    OptimizerOptions& inner = inner_.param_groups()[i].options();
    if (!equal(wrapper, *last_[i])) {
      assign(inner, wrapper);
    } else if (!equal(inner, *last_[i])) {
      assign(wrapper, inner);
    } else {
      continue;
    }
    assign(*last_[i], inner);
  }
}

std::vector<const OptimizerOptions*> OptionsMirror::in_effect() const {
  std::vector<const OptimizerOptions*> options;
  auto& of_wrapper = wrapper_.param_groups();
  auto& of_inner = inner_.param_groups();
  const std::size_t groups = std::min({last_.size(), of_wrapper.size(), of_inner.size()});
  for (std::size_t i = 0; i < groups; ++i) {
    const bool wrapper_wins = !equal(of_wrapper[i].options(), *last_[i]);
    options.push_back(wrapper_wins ? &of_wrapper[i].options() : &of_inner[i].options());
  }
  return options;
}

void OptionsMirror::require_unchanged_groups() const {
  const auto has_them = [this](const torch::optim::Optimizer& optimizer) {
    return std::ranges::equal(
        optimizer.param_groups(), parameters_, [](const auto& group, const auto& parameters) {
          return std::ranges::equal(group.params(), parameters, &torch::Tensor::is_same);
        });
  };
  if (has_them(inner_) && has_them(wrapper_)) return;
  throw Error(
      "parameters were added to an optimizer, removed or exchanged after it was wrapped in a "
      "DistributedOptimizer: change it first, then wrap it anew");
}

}  // namespace kolo::detail
