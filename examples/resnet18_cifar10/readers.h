#pragma once

/// The two file formats. Every mistake in a file is a std::runtime_error that names the path, what
/// was expected and what was found.

#include <cstdint>
#include <filesystem>

#include "dataset.h"

namespace resnet_example {

/// CIFAR-10, binary version: 10,000 records of one label and 3 planes of 32x32.
constexpr std::uintmax_t kCifarFileRecords = 10000;
constexpr std::uintmax_t kCifarRecordBytes = 1 + 3 * 32 * 32;
constexpr std::uintmax_t kCifarFileBytes = kCifarFileRecords * kCifarRecordBytes;

void append_cifar10_file(const std::filesystem::path& path, ImageSet& images);

/// A pair of gzip-compressed IDX files, as MNIST and Fashion-MNIST have them. The 28x28 images get
/// a black border of two pixels, to be 32x32.
ImageSet read_idx_images(const std::filesystem::path& images_path,
                         const std::filesystem::path& labels_path);

}  // namespace resnet_example
