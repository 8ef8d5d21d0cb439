#include "augment.h"

#include <algorithm>

#include "random.h"

namespace resnet_example {

Augmentation draw_augmentation(std::uint64_t seed, int epoch, std::size_t image) {
  // The fourth key keeps these numbers apart from the sampler's.
  Random random({seed, static_cast<std::uint64_t>(epoch), image, 1});
  constexpr int kPositions = 2 * kCropPadding + 1;
  return {.shift_x = static_cast<int>(random.below(kPositions)) - kCropPadding,
          .shift_y = static_cast<int>(random.below(kPositions)) - kCropPadding,
          .flip = random.below(2) == 1};
}

Normalizer::Normalizer(const Dataset& dataset) : tables_(dataset.mean.size()) {
  for (std::size_t channel = 0; channel < tables_.size(); ++channel) {
    for (std::size_t byte = 0; byte < 256; ++byte) {
      tables_[channel][byte] =
          (static_cast<float>(byte) / 255.0F - dataset.mean[channel]) / dataset.std[channel];
    }
  }
}

void Normalizer::write(const ImageSet& images, std::size_t index, const Augmentation& augmentation,
                       float* out) const {
  const std::uint8_t* plane = images.pixels.data() + index * images.image_bytes();
  for (const std::array<float, 256>& table : tables_) {
    for (int y = 0; y < kImageSide; ++y, out += kImageSide) {
      const int source_y = y + augmentation.shift_y;
      std::fill_n(out, kImageSide, table[0]);
      if (source_y < 0 || source_y >= kImageSide) continue;
      const std::uint8_t* row = plane + source_y * kImageSide;
      const int first = std::max(0, -augmentation.shift_x);
      const int last = std::min(kImageSide, kImageSide - augmentation.shift_x);
      for (int x = first; x < last; ++x) {
        out[augmentation.flip ? kImageSide - 1 - x : x] = table[row[x + augmentation.shift_x]];
      }
    }
    plane += kImageSide * kImageSide;
  }
}

}  // namespace resnet_example
