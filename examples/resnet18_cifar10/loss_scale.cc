#include "loss_scale.h"

namespace resnet_example {
namespace {

constexpr int kStepsToGrow = 2000;
constexpr double kGrowth = 2;
constexpr double kBackoff = 0.5;

}  // namespace

void LossScale::update(bool finite) {
  if (!finite) {
    state_ = {.factor = state_.factor * kBackoff};
  } else if (++state_.finite_steps == kStepsToGrow) {
    state_ = {.factor = state_.factor * kGrowth};
  }
}

}  // namespace resnet_example
