#pragma once

#include <kolo/ops.h>
#include <torch/types.h>

#include <chrono>
#include <utility>

namespace resnet_example {

/// Sums over images, kept on the device: reading them would make a GPU wait.
class Metrics {
 public:
  struct Means {
    double loss = 0;
    double accuracy = 0;
    double images = 0;  ///< their number
  };

  explicit Metrics(torch::Device device)
      : sums_(torch::zeros({3}, torch::dtype(torch::kFloat64).device(device))) {}

  /// `loss` is the mean of the batch.
  void add(const torch::Tensor& output, const torch::Tensor& labels, const torch::Tensor& loss) {
    const torch::NoGradGuard no_grad;
    const auto images = static_cast<double>(labels.size(0));
    sums_[0] += loss * images;
    sums_[1] += output.argmax(1).eq(labels).sum();
    sums_[2] += images;
  }

  /// From this rank's images to those of all ranks. Collective.
  void add_other_ranks() {
    kolo::allreduce_(sums_, {.name = "metrics", .op = kolo::ReduceOp::Sum});
  }

  Means read() const {
    const torch::Tensor sums = sums_.cpu();
    const double images = sums[2].item<double>();
    return {sums[0].item<double>() / images, sums[1].item<double>() / images, images};
  }

 private:
  torch::Tensor sums_;
};

/// Seconds since construction, and since the last lap, which lap() ends.
class Stopwatch {
 public:
  double seconds() const { return std::chrono::duration<double>(Clock::now() - start_).count(); }
  double lap() {
    const Clock::time_point now = Clock::now();
    return std::chrono::duration<double>(now - std::exchange(lap_, now)).count();
  }

 private:
  using Clock = std::chrono::steady_clock;
  Clock::time_point start_ = Clock::now();
  Clock::time_point lap_ = start_;
};

}  // namespace resnet_example
