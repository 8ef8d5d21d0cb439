#pragma once

/// From bytes to what the network takes: crop, flip, normalisation.

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "dataset.h"

namespace resnet_example {

/// The crop moves the image by -kCropPadding … kCropPadding pixels each way over a black border.
constexpr int kCropPadding = 4;

struct Augmentation {
  int shift_x = 0;
  int shift_y = 0;
  bool flip = false;
};

/// The same for the same seed, epoch and image.
Augmentation draw_augmentation(std::uint64_t seed, int epoch, std::size_t image);

/// (pixel / 255 - mean) / std for every channel and byte value.
class Normalizer {
 public:
  explicit Normalizer(const Dataset& dataset);

  /// Writes image `index` as floats, channel by channel.
  void write(const ImageSet& images, std::size_t index, const Augmentation& augmentation,
             float* out) const;

 private:
  std::vector<std::array<float, 256>> tables_;
};

}  // namespace resnet_example
