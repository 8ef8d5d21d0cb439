#include "round_gradient.h"

#include <torch/torch.h>

#include <utility>

namespace kolo {
namespace {

bool same_bits(const torch::Tensor& a, const torch::Tensor& b) {
  if (!a.defined() || !b.defined()) return a.defined() == b.defined();
  if (a.layout() != b.layout() || a.scalar_type() != b.scalar_type() || a.device() != b.device() ||
      a.sizes() != b.sizes()) {
    return false;
  }
  const auto bytes = [](const torch::Tensor& tensor) {
    return tensor.detach().contiguous().view({-1}).view(torch::kUInt8);
  };
  return torch::equal(bytes(a), bytes(b));
}

const void* memory_of(const torch::Tensor& tensor) {
  return tensor.layout() == torch::kStrided ? tensor.data_ptr() : nullptr;
}

/// A tensor of inference mode has none.
std::uint32_t version_of(const torch::Tensor& tensor) {
  const c10::VariableVersion& version = tensor.unsafeGetTensorImpl()->version_counter();
  return version.enabled() ? static_cast<std::uint32_t>(version.current_version()) : 0;
}

}  // namespace

RoundGradient::RoundGradient(const torch::Tensor& parameter, std::size_t index)
    : parameter_(parameter), index_(index) {}

void RoundGradient::note() {
  const torch::Tensor& now = parameter_.grad();
  noted_.reset();
  if (!now.defined()) return;
  noted_.emplace(now.getIntrusivePtr());
  noted_memory_ = memory_of(now);
  noted_version_ = version_of(now);
}

bool RoundGradient::replaced() const {
  const torch::Tensor& now = parameter_.grad();
  if (!now.defined()) return false;
  return !noted_ || noted_->_unsafe_get_target() != now.unsafeGetTensorImpl() ||
         noted_memory_ != memory_of(now);
}

bool RoundGradient::written() const {
  const torch::Tensor& now = parameter_.grad();
  return now.defined() && (replaced() || noted_version_ != version_of(now));
}

bool RoundGradient::holds_numbers() const {
  const torch::Tensor& now = parameter_.grad();
  return now.defined() && now.layout() == torch::kStrided &&
         now.count_nonzero().item<std::int64_t>() > 0;
}

bool RoundGradient::is_given(Given given) const {
  switch (given) {
    case Given::Replaced:
      return replaced();
    case Given::Written:
      return written();
    case Given::All:
      return true;
  }
  return true;
}

torch::Tensor RoundGradient::before(const torch::Tensor& incoming, bool on_the_wire,
                                    const GradientPlan& plan) {
  altered_ = altered();
  remembered_.reset();
  if (for_next_round(on_the_wire) && !set_aside_) {
    if (!on_the_wire) held_ = gradient();
    gradient().reset();
    set_aside_ = true;
  }
  was_empty_ = !gradient().defined();
  reduced_ = false;
  const bool moves = was_empty_ && !set_aside_ && incoming.defined() && !incoming.is_cuda() &&
                     !torch::GradMode::is_enabled() && plan.fits(incoming, index_);
  if (!moves) return incoming;
  const torch::Tensor& place = plan.view(index_);
  place.copy_(incoming);
  // A tensor of which nobody else knows, or autograd would copy it.
  return place.alias();
}

bool RoundGradient::after(const GradientPlan& plan) {
  if (!gradient().defined()) return false;
  if (gradient().is_sparse()) gradient() = gradient().to_dense();
  fresh_ = true;
  ready_ = core::Clock::now();
  if (set_aside_) {
    // Autograd may have stored memory that others use as well.
    if (was_empty_) gradient() = gradient().clone();
  } else if (was_empty_ && !gradient().requires_grad() && plan.fits(gradient(), index_)) {
    if (gradient().is_cuda()) {
      stored_ = gradient();
    } else if (!plan.lies_in_place(gradient(), index_)) {
      plan.view(index_).copy_(gradient());
      gradient() = plan.view(index_).detach();
    }
  }
  return true;
}

bool RoundGradient::take(const GradientPlan& plan, Given given, Packing& packing) {
  const torch::Tensor& place = plan.view(index_);
  if (!set_aside_) held_ = parameter_.grad();
  const bool fits = held_.defined() && plan.fits(held_, index_);
  const bool in_place = fits && plan.lies_in_place(held_, index_);
  // A fresh one may have been discarded since. What is set aside stays fresh.
  const bool is_new = set_aside_ || fresh_ || is_given(given);
  if (!set_aside_) fresh_ = false;
  taken_ = is_new && fits;
  expected = false;
  if (in_place && !taken_) untouched_ = held_.clone();
  if (!fits) {
    place.zero_();
  } else if (!in_place && held_.is_cuda() && plan.fits_as_it_lies(held_, index_)) {
    packing.copies.push_back({held_.data_ptr(), place.data_ptr(), held_.numel()});
    packing.memory.push_back(held_.detach());
  } else if (!in_place) {
    place.copy_(held_.detach());
  }
  return fits || !held_.defined();
}

void RoundGradient::finish(const GradientPlan& plan, bool any_new) {
  give_result(plan, any_new);
  note();
}

void RoundGradient::give_result(const GradientPlan& plan, bool any_new) {
  const torch::Tensor& place = plan.view(index_);
  arrived_ = set_aside_ = false;
  torch::Tensor result = std::exchange(held_, {});
  const torch::Tensor untouched = std::exchange(untouched_, {});
  // Another gradient has come meanwhile: see before().
  const bool late = gradient().defined() && !gradient().is_same(result);
  const bool moves = result.defined() && result.is_same(stored_);
  if (any_new || !moves) stored_.reset();
  if (result.defined() && !plan.fits(result, index_)) {
    gradient() = result;
    return;
  }
  if (any_new) {
    if (!result.defined() || moves) {
      result = place.detach();
    } else if (!plan.lies_in_place(result, index_)) {
      result.detach().copy_(place);
    }
    reduced_ = true;
  } else if (untouched.defined()) {
    place.copy_(untouched);
  }
  if (late && result.defined()) result.detach().add_(gradient().detach());
  if (!late || result.defined()) gradient() = result;
}

void RoundGradient::remember() {
  altered_ = false;
  remembered_ = gradient().defined() ? gradient().detach().clone() : torch::Tensor();
}

bool RoundGradient::altered() const {
  return altered_ || (remembered_ && !same_bits(parameter_.grad(), *remembered_));
}

void RoundGradient::move_to(const torch::Tensor& place, const GradientPlan& old) {
  if (!gradient().defined() || !old.lies_in_place(gradient(), index_)) return;
  place.copy_(gradient());
  gradient().set_data(place);
  note();
}

}  // namespace kolo
