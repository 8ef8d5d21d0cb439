#pragma once

/// Tells when autograd stores the gradient of a parameter.

#include <torch/csrc/autograd/function.h>
#include <torch/types.h>

#include <cstddef>
#include <memory>

#include "libtorch_version.h"

namespace kolo {

/// Called on the threads that run backward, of which each device of the parameters has one.
class GradientListener {
 public:
  virtual ~GradientListener() = default;

  /// Before autograd adds `incoming` to the gradient of parameter `index`, or stores it as the first one.
  /// Returns what it is to add or store: `incoming`, or the same numbers elsewhere.
  virtual torch::Tensor before_gradient(std::size_t index, const torch::Tensor& incoming) = 0;
  virtual void after_gradient(std::size_t index) = 0;
};

/// The node that adds to a parameter's gradient, to be kept alive: the parameter itself does not. A
/// parameter that is frozen now may be thawed later, so it gets one, too.
NodePtr accumulator_of(torch::Tensor parameter);

/// As long as the listener lives.
void watch(torch::autograd::Node& accumulator, const std::weak_ptr<GradientListener>& listener,
           std::size_t index);

/// Whether a listener that lives watches.
bool is_watched(torch::autograd::Node& accumulator);

}  // namespace kolo
