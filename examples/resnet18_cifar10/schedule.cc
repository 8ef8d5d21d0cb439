#include "schedule.h"

#include <cmath>

namespace resnet_example {
namespace {

double scale(LrScaling scaling, int ranks) {
  switch (scaling) {
    case LrScaling::None:
      return 1.0;
    case LrScaling::Sqrt:
      return std::sqrt(static_cast<double>(ranks));
    case LrScaling::Linear:
      return ranks;
  }
  return 1.0;
}

}  // namespace

double learning_rate(const Options& options, int ranks, int epoch, std::int64_t step,
                     std::int64_t steps_per_epoch) {
  double lr = options.lr * scale(options.lr_scaling, ranks);
  for (const int milestone : options.lr_milestones) {
    if (epoch >= milestone) lr *= options.lr_gamma;
  }
  if (epoch < options.warmup_epochs) {
    const auto done = static_cast<double>(epoch * steps_per_epoch + step + 1);
    lr *= done / static_cast<double>(options.warmup_epochs * steps_per_epoch);
  }
  return lr;
}

}  // namespace resnet_example
