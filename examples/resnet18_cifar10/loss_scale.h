#pragma once

/// By how much a loss is multiplied before backward, so that small gradients are not lost in
/// float16.

namespace resnet_example {

/// As large as gradients bear it: doubled after 2000 steps in which all were finite, halved when
/// one was not.
class LossScale {
 public:
  struct State {
    double factor = 65536;
    /// Since it was changed.
    int finite_steps = 0;
  };

  LossScale() = default;
  explicit LossScale(State state) : state_(state) {}

  double factor() const { return state_.factor; }
  const State& state() const { return state_; }

  /// A backward is over. `finite`: so were all gradients, and the step was taken.
  void update(bool finite);

 private:
  State state_;
};

}  // namespace resnet_example
