#pragma once

#include <cstdint>

#include "options.h"

namespace resnet_example {

/// The learning rate of a step. Epochs and steps count from 0. --lr times 1, the root of the number
/// of ranks, or that number; rising during the warm-up; times --lr-gamma from each milestone on.
double learning_rate(const Options& options, int ranks, int epoch, std::int64_t step,
                     std::int64_t steps_per_epoch);

}  // namespace resnet_example
