#pragma once

/// One parameter's gradient on its way through rounds.

#include <c10/core/UndefinedTensorImpl.h>
#include <torch/types.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "context/context.h"
#include "gradient_plan.h"

namespace kolo {

/// Between a parameter's grad() and its place in the plan. A gradient that autograd has stored
/// where there was none moves to its place, and grad() becomes a tensor over the place, of its own: a
/// program may give it other memory. One that the program has put somewhere, or that has a graph,
/// stays where it is, and is copied to its place and back.
///
/// On the host it moves just before autograd stores it, which then keeps the place instead of memory of its
/// own: one copy, and no gradient-sized blocks that come and go and leave the heap full of holes.
///
/// On a GPU, where each copy is a kernel of its own, what autograd has stored waits until its group
/// starts, and all that the group lacks is copied in one go, as a part of its operation (Packing).
/// grad() becomes the place in finish(): until then another stream may be writing there.
///
/// In a round: before() and after() for each gradient that autograd stores; take() when its group
/// starts; finish() when the round is over. A round takes one gradient of a backward. If a backward
/// inside that backward brings another, it is set aside for the next round, whether the group has
/// started or not: sums must not depend on how groups happen to be cut.
///
/// What a program writes to a gradient itself, nobody tells. So after each round and each step it is noted which
/// tensor the gradient is, where its memory is, and its version, to which later ones are compared. (Those that
/// write through grad().data(), as clip_grad_norm_() does, do not change the version.)
class RoundGradient {
 public:
  /// Which gradients a round takes as new, besides those that autograd has stored.
  enum class Given {
    /// Those that are another tensor, or have other memory, than was noted.
    Replaced,
    /// Also those that were written to.
    Written,
    /// Whatever there is.
    All,
  };

  /// What a group's operation has yet to copy to its buffer, and what owns that.
  struct Packing {
    std::vector<core::DeviceCopy> copies;
    std::vector<torch::Tensor> memory;
  };

  /// `index`: the parameter's in the plan.
  RoundGradient(const torch::Tensor& parameter, std::size_t index);

  const torch::Tensor& parameter() const { return parameter_; }

  /// Whether it holds a gradient that no round has taken, and since when.
  bool fresh() const { return fresh_; }
  core::Clock::time_point ready() const { return ready_; }
  /// Whether it is defined, and another tensor than was noted, or has other memory; or was written to since.
  bool replaced() const;
  bool written() const;
  /// Whether it holds numbers other than 0. Waits for a GPU.
  bool holds_numbers() const;
  /// Whether that is what a round has given it.
  bool reduced() const { return reduced_ && !replaced(); }

  /// Whether what autograd stores now is for the next round.
  bool for_next_round(bool on_the_wire) const { return arrived_ || on_the_wire; }
  /// Autograd is about to store a gradient, or to add to it. What is for the next round goes to memory of its
  /// own, and is added in finish(). Returns `incoming`; or, if that can be stored in its place at once, what
  /// lies there now: autograd keeps the memory that it is given.
  torch::Tensor before(const torch::Tensor& incoming, bool on_the_wire, const GradientPlan& plan);
  /// It has. False when there still is no gradient.
  bool after(const GradientPlan& plan);
  /// The gradient came in a backward that synchronises: it is the one that this round takes.
  void arrive() { arrived_ = true; }

  /// Brings what the parameter holds to its place, or has it brought there: its gradient, or zeros.
  /// False when it holds something that cannot be reduced.
  bool take(const GradientPlan& plan, Given given, Packing& packing);
  /// Whether what was taken was new.
  bool taken() const { return taken_; }
  /// Gives the parameter the result; or back what it held, when no rank had a new gradient for it.
  void finish(const GradientPlan& plan, bool any_new);
  /// What it is now is what all ranks have.
  void note();

  /// Remembers what it holds, until autograd stores another gradient.
  void remember();
  /// Whether it holds something else than it did then, or did when autograd stored another gradient.
  bool altered() const;
  void forget() { remembered_.reset(), altered_ = false; }

  /// Moves to another plan, whose place for it is given. Who has kept grad() has what lies there.
  void move_to(const torch::Tensor& place, const GradientPlan& old);

  /// Its group waits for it.
  bool expected = false;

 private:
  torch::Tensor& gradient() { return parameter_.mutable_grad(); }
  bool is_given(Given given) const;
  void give_result(const GradientPlan& plan, bool any_new);

  torch::Tensor parameter_;
  const std::size_t index_;
  bool fresh_ = false;
  core::Clock::time_point ready_;
  /// Had no gradient before the one that autograd is about to store.
  bool was_empty_ = false;
  /// On a GPU: what autograd has stored, and is to move to its place.
  torch::Tensor stored_;
  /// Has been reduced, and not been added to since.
  bool reduced_ = false;
  /// What was noted. Weak: the tensor's memory may go, and no other takes its place.
  std::optional<c10::weak_intrusive_ptr<c10::TensorImpl, c10::UndefinedTensorImpl>> noted_;
  const void* noted_memory_ = nullptr;
  std::uint32_t noted_version_ = 0;

  /// In the round under way: whether its gradient has come, and another one that is for the next round.
  bool arrived_ = false;
  bool set_aside_ = false;
  /// What it held when its group started (or another gradient came), whether that was new, and, if it was
  /// not and lies in place, a copy.
  torch::Tensor held_;
  bool taken_ = false;
  torch::Tensor untouched_;

  /// A copy. The tensor's version does not tell: clip_grad_norm_() writes through grad().data().
  std::optional<torch::Tensor> remembered_;
  bool altered_ = false;
};

}  // namespace kolo
