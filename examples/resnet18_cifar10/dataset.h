#pragma once

/// The data sets, read into memory and checked.

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "options.h"

namespace resnet_example {

constexpr int kImageSide = 32;
constexpr int kClasses = 10;
constexpr const char* kFashionMnistFolder = "/usr/share/datasets/fashion-mnist";

/// Images of 32x32 as planes of bytes, one plane a channel.
struct ImageSet {
  int channels = 0;
  std::vector<std::uint8_t> pixels = {};
  std::vector<std::uint8_t> labels = {};

  std::size_t size() const { return labels.size(); }
  std::size_t image_bytes() const {
    return static_cast<std::size_t>(channels) * kImageSide * kImageSide;
  }
};

struct Dataset {
  std::string name;
  /// Of each channel over the training images, in units of the full range; they normalise the
  /// input.
  std::vector<float> mean;
  std::vector<float> std;
  ImageSet train = {};
  ImageSet test = {};

  int channels() const { return train.channels; }
};

/// What is to be read, and where from.
struct DatasetLocation {
  DatasetChoice dataset = DatasetChoice::FashionMnist;  ///< never Auto
  std::filesystem::path folder;
};

/// Decides by --dataset, --data-dir, --download and the files that are there.
DatasetLocation locate_dataset(const Options& options);

/// Whether all of CIFAR-10's files lie in `folder` or its subfolder, in full size.
bool has_cifar10(const std::filesystem::path& folder);

/// Reads both parts. @throws std::runtime_error that names the file, what was expected there and
/// what was found.
Dataset load_dataset(const DatasetLocation& location);

/// Keeps only the first `limit` images, if there are more; 0 keeps all.
void limit_images(ImageSet& images, std::int64_t limit);

}  // namespace resnet_example
