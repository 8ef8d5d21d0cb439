#pragma once

/// Tells when autograd stores the gradient of a parameter.

#include <torch/types.h>

#include <cstddef>
#include <memory>

#include "libtorch_version.h"

namespace kolo {

/// Called on the threads that run backward, of which each device of the parameters has one.
class GradientListener {
 public:
  virtual ~GradientListener() = default;

  /// Before autograd adds `incoming` to the gradient of parameter `index`, or stores it as the
  /// first one. Returns what it is to add or store: `incoming`, or the same numbers elsewhere.
  virtual torch::Tensor before_gradient(std::size_t index, const torch::Tensor& incoming) = 0;
  virtual void after_gradient(std::size_t index) = 0;
  /// LibTorch has given the parameter another accumulator, of which this is the first gradient: the
  /// parameter was loaded, converted or resized. Comes before before_gradient(). `misses_after`:
  /// after_gradient() will not come for this one gradient.
  virtual void accumulator_changed(std::size_t index, bool misses_after) = 0;
};

/// Has the gradients of a parameter reported, as long as it lives.
///
/// The node that adds to a parameter's gradient tells of it, and is kept alive here: the parameter
/// itself does not. But LibTorch drops it without a word when it loads the parameter (set_(), as
/// torch::load() does), or changes its type. A hook of the tensor's own stays, sees that, and
/// follows to the new node.
class GradientWatch {
 public:
  static std::shared_ptr<GradientWatch> begin(const torch::Tensor& parameter,
                                              const std::weak_ptr<GradientListener>& listener,
                                              std::size_t index);
  ~GradientWatch();
  GradientWatch(const GradientWatch&) = delete;
  GradientWatch& operator=(const GradientWatch&) = delete;

  /// Whether the parameter still has the accumulator that is watched.
  bool is_current() const;

 private:
  GradientWatch(const torch::Tensor& parameter, const std::weak_ptr<GradientListener>& listener,
                std::size_t index);

  void follow();
  /// What is to be stored; undefined for `incoming`.
  torch::Tensor call(const torch::Tensor& incoming);

  torch::Tensor parameter_;
  const std::weak_ptr<GradientListener> listener_;
  const std::size_t index_;
  NodePtr accumulator_;
  /// Of the tensor.
  unsigned hook_ = 0;
};

/// Whether a listener that lives watches the parameter. One that is frozen now may be thawed later,
/// so it counts, too.
bool is_watched(const torch::Tensor& parameter);

}  // namespace kolo
