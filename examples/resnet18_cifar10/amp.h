#pragma once

/// Automatic mixed precision: parameters and sums in float32, convolutions and products in less.

#include <torch/types.h>

#include <vector>

#include "options.h"

namespace resnet_example {

/// @throws UsageError when the device cannot do it.
void require_fit(Amp amp, torch::Device device);

/// As long as it lives, LibTorch chooses the precision of each operation of this thread.
class Autocast {
 public:
  Autocast(Amp amp, torch::Device device);
  ~Autocast();
  Autocast(const Autocast&) = delete;
  Autocast& operator=(const Autocast&) = delete;

 private:
  const bool on_;
  const torch::Device device_;
};

/// Divides the gradients by `factor`. Whether all of them are finite, so that a step may be taken.
bool unscale_gradients(const std::vector<torch::Tensor>& parameters, double factor);

}  // namespace resnet_example
