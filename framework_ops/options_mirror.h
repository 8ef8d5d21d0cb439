#pragma once

/// Two optimizers' options as one.

#include <torch/optim/optimizer.h>

#include <memory>
#include <vector>

namespace kolo::detail {

/// Keeps the options of a wrapper's parameter groups and of the inner optimizer's the same, whichever
/// of the two a program changes. LibTorch gives an Optimizer no way to say that its groups live in
/// another one, so they are compared with what they were, and the change is carried over.
///
/// All options of LibTorch's own optimizers are mirrored. Of others, whose type is unknown here, it is
/// the learning rate, if they implement get_lr() and set_lr() as schedulers need; what else they have
/// is to be changed on the inner optimizer.
class OptionsMirror {
 public:
  /// Both must outlive the mirror, and have the same groups.
  OptionsMirror(torch::optim::Optimizer& wrapper, torch::optim::Optimizer& inner);

  /// Carries over what has changed since the last call; a change on the wrapper wins.
  /// @throws kolo::Error when parameters or groups were added, removed or exchanged on either side.
  void reconcile();

  /// By group: as reconcile() would leave them.
  std::vector<const torch::optim::OptimizerOptions*> in_effect() const;

 private:
  void require_unchanged_groups() const;

  torch::optim::Optimizer& wrapper_;
  torch::optim::Optimizer& inner_;
  /// As of the last call, by group.
  std::vector<std::unique_ptr<torch::optim::OptimizerOptions>> last_;
  /// By group; kept alive, so that no other tensor can be taken for one of them.
  std::vector<std::vector<torch::Tensor>> parameters_;
};

}  // namespace kolo::detail
