#include "dataset.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <stdexcept>

#include "readers.h"

namespace resnet_example {
namespace {

namespace fs = std::filesystem;

constexpr std::array kCifarTrainFiles = {"data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin",
                                         "data_batch_4.bin", "data_batch_5.bin"};
constexpr const char* kCifarTestFile = "test_batch.bin";
constexpr const char* kCifarSubfolder = "cifar-10-batches-bin";
constexpr const char* kFashionTrainImages = "train-images-idx3-ubyte.gz";

/// Any of the files tells that CIFAR-10 is meant; the ones that are missing are an error later.
bool holds_part_of_cifar10(const fs::path& folder) {
  return fs::exists(folder / kCifarTestFile) ||
         std::ranges::any_of(kCifarTrainFiles,
                             [&](const char* file) { return fs::exists(folder / file); });
}

fs::path cifar10_folder(const fs::path& folder) {
  return holds_part_of_cifar10(folder) ? folder : folder / kCifarSubfolder;
}

DatasetChoice recognise(const Options& options) {
  if (options.download) return DatasetChoice::Cifar10;
  if (options.data_dir.empty()) return DatasetChoice::FashionMnist;
  if (holds_part_of_cifar10(cifar10_folder(options.data_dir))) return DatasetChoice::Cifar10;
  if (fs::exists(options.data_dir / kFashionTrainImages)) return DatasetChoice::FashionMnist;
  throw std::runtime_error(fmt::format(
      "--data-dir {} holds no data set: expected {} (also in the subfolder {}) or {}. --download "
      "fetches CIFAR-10 there.",
      options.data_dir.string(), kCifarTrainFiles[0], kCifarSubfolder, kFashionTrainImages));
}

Dataset load_cifar10(const fs::path& root) {
  const fs::path folder = cifar10_folder(root);
  Dataset data{.name = "CIFAR-10",
               .mean = {0.4914F, 0.4822F, 0.4465F},
               .std = {0.2023F, 0.1994F, 0.2010F},
               .train = {.channels = 3},
               .test = {.channels = 3}};
  for (const char* file : kCifarTrainFiles) append_cifar10_file(folder / file, data.train);
  append_cifar10_file(folder / kCifarTestFile, data.test);
  return data;
}

Dataset load_fashion_mnist(const fs::path& folder) {
  Dataset data{.name = "Fashion-MNIST", .mean = {0.2860F}, .std = {0.3530F}};
  data.train = read_idx_images(folder / kFashionTrainImages, folder / "train-labels-idx1-ubyte.gz");
  data.test =
      read_idx_images(folder / "t10k-images-idx3-ubyte.gz", folder / "t10k-labels-idx1-ubyte.gz");
  return data;
}

}  // namespace

bool has_cifar10(const fs::path& root) {
  const fs::path folder = cifar10_folder(root);
  auto complete = [&](const char* file) {
    std::error_code error;
    return fs::file_size(folder / file, error) == kCifarFileBytes && !error;
  };
  return std::ranges::all_of(kCifarTrainFiles, complete) && complete(kCifarTestFile);
}

DatasetLocation locate_dataset(const Options& options) {
  DatasetLocation location{options.dataset, options.data_dir};
  if (location.dataset == DatasetChoice::Auto) location.dataset = recognise(options);
  if (location.folder.empty()) {
    location.folder =
        location.dataset == DatasetChoice::Cifar10 ? fs::path("data") : kFashionMnistFolder;
  }
  return location;
}

Dataset load_dataset(const DatasetLocation& location) {
  return location.dataset == DatasetChoice::Cifar10 ? load_cifar10(location.folder)
                                                    : load_fashion_mnist(location.folder);
}

void limit_images(ImageSet& images, std::int64_t limit) {
  const auto keep = static_cast<std::size_t>(limit);
  if (limit == 0 || keep >= images.size()) return;
  images.labels.resize(keep);
  images.pixels.resize(keep * images.image_bytes());
}

}  // namespace resnet_example
