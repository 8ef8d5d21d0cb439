#pragma once

/// Where the gradients of an optimizer's parameters lie: next to each other, in buffers that are reduced
/// as they are.

#include <torch/types.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "context/context.h"
#include "engine/group_planner.h"

namespace kolo {

/// The parameters' gradients.
std::vector<core::PlannedTensor> planned_tensors(const std::vector<torch::Tensor>& parameters);

class GradientPlan {
 public:
  struct Group {
    /// One-dimensional, of all its parameters' gradients.
    torch::Tensor buffer;
    std::vector<std::size_t> parameters;
    /// How many of them have let go of their places.
    std::size_t released = 0;
  };

  using OnPlace = std::function<void(std::size_t parameter, const torch::Tensor& view)>;

  /// Of `parameters`, in these groups. Views are zero, and reported one after the other while memory is
  /// allocated, so that another plan's can be released meanwhile.
  GradientPlan(const std::shared_ptr<core::Context>& context,
               const std::vector<torch::Tensor>& parameters, const core::Grouping& groups,
               const OnPlace& on_place);

  /// Whether these groups only cut this plan's, so that no gradient need move; and cuts them.
  bool is_cut_by(const core::Grouping& groups) const;
  void cut(const core::Grouping& groups);

  /// Lets go of a parameter's place. A group's memory goes with its last one; that of groups which
  /// were cut from one, with the last of them all.
  void release(std::size_t parameter);

  std::size_t group_of(std::size_t parameter) const { return places_[parameter].group; }
  /// The place of a parameter's gradient: with its shape, dtype and, if it is dense, its strides.
  const torch::Tensor& view(std::size_t parameter) const { return places_[parameter].view; }
  /// In the order in which they start.
  const std::vector<Group>& groups() const { return groups_; }

  /// Whether `gradient` is the memory of that view.
  bool lies_in_place(const torch::Tensor& gradient, std::size_t parameter) const;
  /// Whether it is copied into that view by copying its memory from begin to end.
  bool fits_as_it_lies(const torch::Tensor& gradient, std::size_t parameter) const;
  /// Whether it can be copied into that view.
  bool fits(const torch::Tensor& gradient, std::size_t parameter) const;

 private:
  struct Place {
    std::size_t group = 0;
    /// Among the group's parameters.
    std::size_t index = 0;
    /// In its buffer, in elements.
    std::int64_t offset = 0;
    torch::Tensor view;
  };

  std::vector<Place> places_;
  std::vector<Group> groups_;
};

}  // namespace kolo
