#pragma once

#include <torch/cuda.h>
#include <torch/types.h>

#include <cstdint>

#include "history.h"
#include "metrics.h"

namespace resnet_example {

/// Measures the phases of steps. A GPU works on behind the host, and waiting for it at the end of
/// each phase would slow training down: so there it is waited for in one step of 16, and these
/// stand for all.
class PhaseClock {
 public:
  /// The first step begins.
  explicit PhaseClock(torch::Device device) : device_(device), measures_(device.is_cpu()) {}

  /// Whether it measures this step.
  bool measures() const { return measures_; }

  /// Seconds since the last lap; 0 in a step that is not measured.
  double lap() {
    if (!measures_) return 0;
    if (device_.is_cuda()) torch::cuda::synchronize(device_.index());
    return time_.lap();
  }

  void next_step() {
    ++steps_;
    if (measures_) ++measured_;
    // Not the first one, in which much happens for the first time.
    measures_ = device_.is_cpu() || steps_ % kEvery == 1;
    lap();
  }

  /// The sums of measured steps as those of all.
  Phases of_all_steps(Phases phases) const {
    const double factor =
        measured_ == 0 ? 0 : static_cast<double>(steps_) / static_cast<double>(measured_);
    for (double* phase : {&phases.data, &phases.forward, &phases.backward, &phases.communication,
                          &phases.optimizer}) {
      *phase *= factor;
    }
    return phases;
  }

 private:
  static constexpr std::int64_t kEvery = 16;

  const torch::Device device_;
  bool measures_;
  std::int64_t steps_ = 0;
  std::int64_t measured_ = 0;
  Stopwatch time_;
};

}  // namespace resnet_example
