#include "gradient_hooks.h"

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

/// Calls `f` while the parameter is not frozen: of one that is, LibTorch knows no accumulator, and
/// takes no hook.
template <typename F>
void while_thawed(torch::Tensor parameter, const F& f) {
  const bool frozen = !parameter.requires_grad();
  if (frozen) parameter.set_requires_grad(true);
  f();
  if (frozen) parameter.set_requires_grad(false);
}

}  // namespace

std::shared_ptr<GradientWatch> GradientWatch::begin(const torch::Tensor& parameter,
                                                    const std::weak_ptr<GradientListener>& listener,
                                                    std::size_t index) {
  std::shared_ptr<GradientWatch> watch(new GradientWatch(parameter, listener, index));
  while_thawed(parameter, [&] {
    watch->follow();
    watch->hook_ =
        parameter.register_hook([weak = std::weak_ptr(watch)](const torch::Tensor& incoming) {
          const std::shared_ptr<GradientWatch> self = weak.lock();
          return self == nullptr ? torch::Tensor() : self->call(incoming);
        });
  });
  return watch;
}

GradientWatch::GradientWatch(const torch::Tensor& parameter,
                             const std::weak_ptr<GradientListener>& listener, std::size_t index)
    : parameter_(parameter), listener_(listener), index_(index) {}

GradientWatch::~GradientWatch() { parameter_.remove_hook(hook_); }

bool GradientWatch::is_current() const {
  return torch::autograd::impl::try_get_grad_accumulator(parameter_) == accumulator_;
}

/// To the accumulator that the parameter has now.
void GradientWatch::follow() {
  accumulator_ = torch::autograd::impl::grad_accumulator(parameter_);
  if constexpr (!kAccumulatorCallsTensorsHooks) {
    accumulator_->add_pre_hook(std::make_unique<BeforeHook>(listener_, index_));
  }
  accumulator_->add_post_hook(std::make_unique<AfterHook>(listener_, index_));
}

torch::Tensor GradientWatch::call(const torch::Tensor& incoming) {
  const std::shared_ptr<GradientListener> listener = listener_.lock();
  if (listener == nullptr) return {};
  if (!is_current()) {
    listener->accumulator_changed(index_, /*misses_after=*/kAccumulatorCallsTensorsHooks);
    follow();
  }
  if constexpr (!kAccumulatorCallsTensorsHooks) return {};
  return listener->before_gradient(index_, incoming);
}

bool is_watched(const torch::Tensor& parameter) {
  bool watched = false;
  while_thawed(parameter, [&] {
    const NodePtr accumulator = torch::autograd::impl::grad_accumulator(parameter);
    watched = std::ranges::any_of(accumulator->post_hooks(), [](const auto& hook) {
      const auto* ours = dynamic_cast<const AfterHook*>(hook.get());
      return ours != nullptr && ours->alive();
    });
  });
  return watched;
}

}  // namespace kolo
