#include "gradient_plan.h"

#include <kolo/error.h>
#include <torch/torch.h>

#include <algorithm>
#include <span>
#include <utility>

#include "bridge.h"
#include "device.h"
#include "tensor_memory.h"

namespace kolo {
namespace {

torch::TensorOptions options_of_gradient(const torch::Tensor& parameter) {
  return torch::TensorOptions().dtype(parameter.dtype()).device(parameter.device());
}

std::vector<std::int64_t> strides_of_gradient(const torch::Tensor& parameter) {
  if (parameter.is_non_overlapping_and_dense()) return parameter.strides().vec();
  return torch::empty(parameter.sizes(), torch::kMeta).strides().vec();
}

}  // namespace

std::vector<core::PlannedTensor> planned_tensors(const std::vector<torch::Tensor>& parameters) {
  std::vector<core::PlannedTensor> tensors;
  for (const torch::Tensor& parameter : parameters) {
    tensors.push_back({detail::to_core(parameter.scalar_type()), parameter.numel(),
                       detail::to_core(parameter.device())});
  }
  return tensors;
}

GradientPlan::GradientPlan(const std::shared_ptr<core::Context>& context,
                           const std::vector<torch::Tensor>& parameters,
                           const core::Grouping& groups, const OnPlace& on_place)
    : places_(parameters.size()) {
  const std::vector<core::PlannedTensor> tensors = planned_tensors(parameters);
  for (const std::vector<std::size_t>& members : groups) {
    const core::PlanGroup planned = core::lay_out(tensors, members);
    const auto element = static_cast<std::int64_t>(core::size_of(planned.dtype));
    const auto bytes = static_cast<std::size_t>(planned.elements * element);
    const torch::Tensor& first = parameters[planned.slots.front().tensor];
    const core::Result<std::shared_ptr<void>> allocated =
        detail::allocate(context, first.device(), bytes);
    if (!allocated.ok()) {
      throw Error(c10::str("DistributedOptimizer: not enough memory for gradients: ",
                           allocated.status().message()));
    }
    const std::shared_ptr<void>& memory = allocated.value();
    Group group{.buffer =
                    detail::tensor_in(memory, 0, {planned.elements}, options_of_gradient(first))};
    group.buffer.zero_();
    for (const core::PlanGroup::Slot& slot : planned.slots) {
      const torch::Tensor& parameter = parameters[slot.tensor];
      places_[slot.tensor] = {.group = groups_.size(),
                              .index = group.parameters.size(),
                              .offset = slot.offset,
                              .view = detail::tensor_in(
                                  memory, slot.offset * element, parameter.sizes(),
                                  options_of_gradient(parameter), strides_of_gradient(parameter))};
      group.parameters.push_back(slot.tensor);
      on_place(slot.tensor, view(slot.tensor));
    }
    groups_.push_back(std::move(group));
  }
}

bool GradientPlan::is_cut_by(const core::Grouping& groups) const {
  return std::ranges::all_of(groups, [this](const std::vector<std::size_t>& members) {
    const Place& first = places_[members.front()];
    const auto rest = std::span(groups_[first.group].parameters).subspan(first.index);
    return rest.size() >= members.size() &&
           std::ranges::equal(members, rest.first(members.size()));
  });
}

void GradientPlan::cut(const core::Grouping& groups) {
  std::vector<Group> parts;
  for (const std::vector<std::size_t>& members : groups) {
    const Group& whole = groups_[group_of(members.front())];
    const std::int64_t begin = places_[members.front()].offset;
    const std::size_t next = places_[members.back()].index + 1;
    const std::int64_t end = next == whole.parameters.size()
                                 ? whole.buffer.numel()
                                 : places_[whole.parameters[next]].offset;
    parts.push_back({.buffer = whole.buffer.slice(0, begin, end), .parameters = members});
  }
  groups_ = std::move(parts);
  for (std::size_t i = 0; i < groups_.size(); ++i) {
    const std::int64_t begin = places_[groups_[i].parameters.front()].offset;
    for (std::size_t index = 0; index < groups_[i].parameters.size(); ++index) {
      Place& place = places_[groups_[i].parameters[index]];
      place.group = i;
      place.index = index;
      place.offset -= begin;
    }
  }
}

void GradientPlan::release(std::size_t parameter) {
  Group& group = groups_[group_of(parameter)];
  places_[parameter].view.reset();
  if (++group.released == group.parameters.size()) group.buffer.reset();
}

bool GradientPlan::lies_in_place(const torch::Tensor& gradient, std::size_t parameter) const {
  const torch::Tensor& place = view(parameter);
  return gradient.layout() == torch::kStrided && gradient.data_ptr() == place.data_ptr() &&
         gradient.sizes() == place.sizes() && gradient.strides() == place.strides();
}

bool GradientPlan::fits_as_it_lies(const torch::Tensor& gradient, std::size_t parameter) const {
  if (!fits(gradient, parameter) || !gradient.is_non_overlapping_and_dense()) return false;
  const torch::Tensor& place = view(parameter);
  for (std::int64_t dim = 0; dim < place.dim(); ++dim) {
    // Of a dimension of one element the stride means nothing.
    if (place.size(dim) != 1 && gradient.stride(dim) != place.stride(dim)) return false;
  }
  return place.is_non_overlapping_and_dense();
}

bool GradientPlan::fits(const torch::Tensor& gradient, std::size_t parameter) const {
  const torch::Tensor& place = view(parameter);
  return gradient.layout() == torch::kStrided && gradient.sizes() == place.sizes() &&
         gradient.scalar_type() == place.scalar_type() && gradient.device() == place.device();
}

}  // namespace kolo
