#include "gradient_hooks.h"

#include <torch/csrc/autograd/variable.h>
#include <torch/torch.h>

#include <algorithm>
#include <utility>

#include "global.h"

namespace kolo {
namespace {

using torch::autograd::variable_list;

class BeforeHook final : public torch::autograd::FunctionPreHook {
 public:
  BeforeHook(std::weak_ptr<GradientListener> listener, std::size_t index)
      : listener_(std::move(listener)), index_(index) {}

  variable_list operator()(const variable_list& gradients) override {
    const auto listener = listener_.lock();
    if (listener == nullptr) return gradients;
    detail::require_own_process();
    return {listener->before_gradient(index_, gradients.front())};
  }

 private:
  std::weak_ptr<GradientListener> listener_;
  std::size_t index_;
};

class AfterHook final : public torch::autograd::FunctionPostHook {
 public:
  AfterHook(std::weak_ptr<GradientListener> listener, std::size_t index)
      : listener_(std::move(listener)), index_(index) {}

  variable_list operator()(const variable_list& outputs, const variable_list& /*inputs*/) override {
    if (const auto listener = listener_.lock()) listener->after_gradient(index_);
    return outputs;
  }

  bool alive() const { return !listener_.expired(); }

 private:
  std::weak_ptr<GradientListener> listener_;
  std::size_t index_;
};

}  // namespace

NodePtr accumulator_of(torch::Tensor parameter) {
  const bool frozen = !parameter.requires_grad();
  if (frozen) parameter.set_requires_grad(true);
  NodePtr node = torch::autograd::impl::grad_accumulator(parameter);
  if (frozen) parameter.set_requires_grad(false);
  return node;
}

void watch(torch::autograd::Node& accumulator, const std::weak_ptr<GradientListener>& listener,
           std::size_t index) {
  accumulator.add_pre_hook(std::make_unique<BeforeHook>(listener, index));
  accumulator.add_post_hook(std::make_unique<AfterHook>(listener, index));
}

bool is_watched(torch::autograd::Node& accumulator) {
  return std::ranges::any_of(accumulator.post_hooks(), [](const auto& hook) {
    const auto* ours = dynamic_cast<const AfterHook*>(hook.get());
    return ours != nullptr && ours->alive();
  });
}

}  // namespace kolo
