#include "dataset.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <numeric>

#include "data_files.h"
#include "readers.h"
#include "temp_folder.h"

namespace resnet_example {
namespace {

using testing::expect_error;
using testing::idx_bytes;
using testing::TempFolder;
using testing::write_cifar10;
using testing::write_cifar10_file;
using testing::write_fashion_mnist;
using testing::write_gzip;
using testing::write_text;

TEST(Cifar10, ReadsLabelsAndPlanes) {
  const TempFolder folder;
  const auto path = folder / "data_batch_1.bin";
  write_cifar10_file(path, {7, 0, 9});
  ImageSet images{.channels = 3};
  append_cifar10_file(path, images);
  ASSERT_EQ(images.size(), 10000U);
  EXPECT_EQ(images.pixels.size(), 10000U * 3072);
  EXPECT_EQ(images.labels[0], 7);
  EXPECT_EQ(images.labels[2], 9);
  EXPECT_EQ(images.pixels[2 * 3072], 2);
  EXPECT_EQ(images.pixels[3 * 3072 - 1], 2);
  append_cifar10_file(path, images);
  EXPECT_EQ(images.labels[10002], 9);
}

TEST(Cifar10, RefusesOtherSizes) {
  const TempFolder folder;
  const auto path = folder / "test_batch.bin";
  ImageSet images{.channels = 3};
  write_cifar10_file(path);
  for (const std::uintmax_t size : {kCifarFileBytes - 1, kCifarFileBytes - kCifarRecordBytes,
                                    kCifarFileBytes + 1, std::uintmax_t{0}}) {
    std::filesystem::resize_file(path, size);
    expect_error([&] { append_cifar10_file(path, images); }, path.string(),
                 "expected 30730000 bytes", "found " + std::to_string(size) + " bytes");
  }
}

TEST(Cifar10, RefusesBadLabels) {
  const TempFolder folder;
  const auto path = folder / "test_batch.bin";
  write_cifar10_file(path, {1, 10});
  ImageSet images{.channels = 3};
  expect_error([&] { append_cifar10_file(path, images); }, path.string(), "label of image 1",
               "expected 0 to 9", "found 10");
}

TEST(Cifar10, NamesMissingFiles) {
  const TempFolder folder;
  write_cifar10(folder.path());
  std::filesystem::remove(folder / "data_batch_4.bin");
  expect_error(
      [&] {
        load_dataset({DatasetChoice::Cifar10, folder.path()});
      },
      (folder / "data_batch_4.bin").string(), "No such file");
  EXPECT_FALSE(has_cifar10(folder.path()));
}

TEST(Cifar10, LoadsFromFolderAndSubfolder) {
  for (const char* subfolder : {"", "cifar-10-batches-bin"}) {
    const TempFolder folder;
    write_cifar10(folder / subfolder);
    EXPECT_TRUE(has_cifar10(folder.path()));
    const Dataset data = load_dataset({DatasetChoice::Cifar10, folder.path()});
    EXPECT_EQ(data.train.size(), 50000U);
    EXPECT_EQ(data.test.size(), 10000U);
    EXPECT_EQ(data.channels(), 3);
    EXPECT_EQ(data.mean.size(), 3U);
  }
}

/// The real pictures, where the environment tells where they are.
TEST(Cifar10, RealFilesHaveTheKnownStatistics) {
  const char* folder = std::getenv("KOLO_TEST_CIFAR10_DIR");
  if (folder == nullptr) GTEST_SKIP() << "KOLO_TEST_CIFAR10_DIR does not name CIFAR-10's folder";
  const Dataset data = load_dataset({DatasetChoice::Cifar10, folder});
  for (std::uint8_t label = 0; label < kClasses; ++label) {
    EXPECT_EQ(std::ranges::count(data.train.labels, label), 5000);
    EXPECT_EQ(std::ranges::count(data.test.labels, label), 1000);
  }
  std::array<double, 3> sums{};
  for (std::size_t i = 0; i < data.train.pixels.size(); ++i) {
    sums.at(i / 1024 % 3) += data.train.pixels[i];
  }
  for (std::size_t channel = 0; channel < 3; ++channel) {
    EXPECT_NEAR(sums.at(channel) / 255 / 1024 / 50000, data.mean[channel], 0.002);
  }
}

TEST(FashionMnist, PadsImagesToTheMiddle) {
  const TempFolder folder;
  write_fashion_mnist(folder.path(), 12);
  const Dataset data = load_dataset({DatasetChoice::FashionMnist, folder.path()});
  ASSERT_EQ(data.train.size(), 12U);
  EXPECT_EQ(data.channels(), 1);
  EXPECT_EQ(data.train.labels[11], 1);
  for (std::size_t y = 0; y < 32; ++y) {
    for (std::size_t x = 0; x < 32; ++x) {
      const bool inside = y >= 2 && y < 30 && x >= 2 && x < 30;
      ASSERT_EQ(data.train.pixels[5 * 1024 + y * 32 + x], inside ? 5 : 0) << y << ' ' << x;
    }
  }
}

TEST(FashionMnist, DebianPackageHasTheKnownStatistics) {
  if (!std::filesystem::exists(kFashionMnistFolder)) {
    GTEST_SKIP() << "Debian's dataset-fashion-mnist is not installed";
  }
  const Dataset data = load_dataset({DatasetChoice::FashionMnist, kFashionMnistFolder});
  ASSERT_EQ(data.train.size(), 60000U);
  ASSERT_EQ(data.test.size(), 10000U);
  EXPECT_EQ(std::ranges::count(data.train.labels, 9), 6000);
  const double pixels = 60000.0 * 28 * 28;
  double sum = 0;
  double squares = 0;
  for (const double pixel : data.train.pixels) {
    sum += pixel / 255;
    squares += pixel / 255 * pixel / 255;
  }
  EXPECT_NEAR(sum / pixels, data.mean[0], 1e-4);
  EXPECT_NEAR(std::sqrt(squares / pixels - sum / pixels * sum / pixels), data.std[0], 1e-4);
}

class BrokenIdx : public ::testing::Test {
 protected:
  void expect_image_error(const std::string& bytes, const std::string& expected,
                          const std::string& found) {
    write_gzip(images_, bytes);
    expect_error([&] { read_idx_images(images_, labels_); }, images_.string(),
                 "expected " + expected, "found " + found);
  }
  void expect_label_error(const std::string& bytes, const std::string& expected,
                          const std::string& found) {
    write_gzip(images_, idx_bytes(0x803, {2, 28, 28}, two_images_));
    write_gzip(labels_, bytes);
    expect_error([&] { read_idx_images(images_, labels_); }, labels_.string(),
                 "expected " + expected, "found " + found);
  }

  const TempFolder folder_;
  const std::filesystem::path images_ = folder_ / "images.gz";
  const std::filesystem::path labels_ = folder_ / "labels.gz";
  const std::string two_images_ = std::string(std::size_t{2} * 28 * 28, 'x');
};

TEST_F(BrokenIdx, Images) {
  expect_image_error(idx_bytes(0x801, {2, 28, 28}, two_images_), "2051", "2049");
  expect_image_error(idx_bytes(0x803, {2, 28, 27}, two_images_), "28", "27");
  expect_image_error(idx_bytes(0x803, {2, 32, 28}, two_images_), "28", "32");
  expect_image_error(idx_bytes(0x803, {3, 28, 28}, two_images_), "2352", "1568");
  expect_image_error(idx_bytes(0x803, {0xffffffff, 28, 28}, two_images_), "3367254359280", "1568");
  expect_image_error(idx_bytes(0x803, {2, 28, 28}, two_images_ + "x"), "1568", "1569");
  expect_image_error("\0\0", "4 bytes", "0");
  expect_image_error("", "4 bytes", "0");
}

TEST_F(BrokenIdx, Labels) {
  expect_label_error(idx_bytes(0x803, {2}, "\1\2"), "2049", "2051");
  expect_label_error(idx_bytes(0x801, {3}, "\1\2\3"), "2", "3");
  expect_label_error(idx_bytes(0x801, {2}, "\1"), "2", "1");
  expect_label_error(idx_bytes(0x801, {2}, "\1\12"), "0 to 9", "10");
}

TEST_F(BrokenIdx, Compression) {
  write_gzip(images_, idx_bytes(0x803, {2, 28, 28}, two_images_));
  const std::string whole = testing::read_text(images_);
  write_text(images_, whole.substr(0, whole.size() - 12));
  expect_error([&] { read_idx_images(images_, labels_); }, images_.string(), "intact gzip");
  std::string bad_crc = whole;
  bad_crc[bad_crc.size() - 8] = static_cast<char>(bad_crc[bad_crc.size() - 8] ^ 1);
  write_text(images_, bad_crc);
  expect_error([&] { read_idx_images(images_, labels_); }, images_.string(), "intact gzip");
  std::filesystem::remove(images_);
  expect_error([&] { read_idx_images(images_, labels_); }, images_.string(), "No such file");
}

TEST(LocateDataset, FollowsTheOptionsAndTheFiles) {
  const TempFolder cifar;
  write_cifar10_file(cifar / "cifar-10-batches-bin/data_batch_2.bin");
  const TempFolder fashion;
  write_fashion_mnist(fashion.path(), 1);
  const TempFolder empty;

  auto located = [](Options options) { return locate_dataset(options); };
  EXPECT_EQ(located({}).dataset, DatasetChoice::FashionMnist);
  EXPECT_EQ(located({}).folder, kFashionMnistFolder);
  EXPECT_EQ(located({.data_dir = cifar.path()}).dataset, DatasetChoice::Cifar10);
  EXPECT_EQ(located({.data_dir = fashion.path()}).dataset, DatasetChoice::FashionMnist);
  EXPECT_EQ(located({.data_dir = fashion.path()}).folder, fashion.path());
  EXPECT_EQ(located({.download = true}).dataset, DatasetChoice::Cifar10);
  EXPECT_EQ(located({.dataset = DatasetChoice::Cifar10}).folder, "data");
  EXPECT_EQ(located({.data_dir = empty.path(), .download = true}).folder, empty.path());
  expect_error([&] { located({.data_dir = empty.path()}); }, empty.path().string(),
               "data_batch_1.bin", "train-images-idx3-ubyte.gz", "--download");
}

TEST(LimitImages, KeepsTheFirst) {
  ImageSet images{
      .channels = 1, .pixels = std::vector<std::uint8_t>(5120), .labels = {1, 2, 3, 4, 5}};
  limit_images(images, 0);
  EXPECT_EQ(images.size(), 5U);
  limit_images(images, 9);
  EXPECT_EQ(images.size(), 5U);
  limit_images(images, 2);
  EXPECT_EQ(images.labels, (std::vector<std::uint8_t>{1, 2}));
  EXPECT_EQ(images.pixels.size(), 2048U);
}

}  // namespace
}  // namespace resnet_example
