#include "readers.h"

#include <fmt/format.h>
#include <zlib.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <memory>
#include <stdexcept>
#include <string>
#include <system_error>

#include "files.h"

namespace resnet_example {
namespace {

namespace fs = std::filesystem;

constexpr std::uint32_t kIdxImagesMagic = 0x00000803;  // unsigned bytes, three dimensions
constexpr std::uint32_t kIdxLabelsMagic = 0x00000801;  // unsigned bytes, one dimension
constexpr std::uint32_t kIdxSide = 28;

template <class Expected, class Found>
[[noreturn]] void mismatch(const fs::path& path, const char* what, const Expected& expected,
                           const Found& found) {
  throw std::runtime_error(
      fmt::format("{}: {}: expected {}, found {}", path.string(), what, expected, found));
}

void check_label(const fs::path& path, std::size_t record, std::uint8_t label) {
  if (label < kClasses) return;
  mismatch(path, fmt::format("label of image {}", record).c_str(),
           fmt::format("0 to {}", kClasses - 1), label);
}

/// The decompressed contents; zlib checks the length and the CRC that are stored in the file.
std::string read_gzip(const fs::path& path) {
  const std::unique_ptr<gzFile_s, int (*)(gzFile)> file(gzopen(path.c_str(), "rb"), gzclose);
  if (!file) {
    throw std::runtime_error(
        fmt::format("cannot read {}: {}", path.string(), std::generic_category().message(errno)));
  }
  std::string bytes;
  std::string chunk(1 << 18, '\0');
  for (;;) {
    const int got = gzread(file.get(), chunk.data(), static_cast<unsigned>(chunk.size()));
    int error = Z_OK;
    const char* reason = gzerror(file.get(), &error);
    if (got < 0 || error != Z_OK) mismatch(path, "contents", "an intact gzip file", reason);
    if (got == 0) return bytes;
    bytes.append(chunk, 0, static_cast<std::size_t>(got));
  }
}

/// The header of an IDX file: a magic number and the dimensions, all big-endian.
class IdxFile {
 public:
  explicit IdxFile(const fs::path& path) : path_(path), bytes_(read_gzip(path)) {}

  std::uint32_t next_field(const char* what) {
    if (bytes_.size() < position_ + 4) {
      mismatch(path_, what, "4 bytes", fmt::format("{}", bytes_.size() - position_));
    }
    std::uint32_t value = 0;
    for (int i = 0; i < 4; ++i) value = value << 8 | static_cast<std::uint8_t>(bytes_[position_++]);
    return value;
  }

  void expect(const char* what, std::uint32_t expected) {
    const std::uint32_t found = next_field(what);
    if (found != expected) mismatch(path_, what, expected, found);
  }

  /// What follows the header, which must be `size` bytes.
  const std::uint8_t* payload(std::uint64_t size) const {
    const std::size_t found = bytes_.size() - position_;
    if (found != size) mismatch(path_, "bytes after the header", size, found);
    return reinterpret_cast<const std::uint8_t*>(bytes_.data()) + position_;
  }

 private:
  fs::path path_;
  std::string bytes_;
  std::size_t position_ = 0;
};

/// Copies 28x28 planes into the middle of black 32x32 planes.
std::vector<std::uint8_t> pad_images(const std::uint8_t* source, std::size_t count) {
  constexpr std::size_t kBorder = (kImageSide - kIdxSide) / 2;
  std::vector<std::uint8_t> padded(count * kImageSide * kImageSide, 0);
  for (std::size_t image = 0; image < count; ++image) {
    for (std::size_t row = 0; row < kIdxSide; ++row) {
      const std::size_t target = (image * kImageSide + row + kBorder) * kImageSide + kBorder;
      std::copy_n(source, kIdxSide, padded.begin() + static_cast<std::ptrdiff_t>(target));
      source += kIdxSide;
    }
  }
  return padded;
}

}  // namespace

void append_cifar10_file(const fs::path& path, ImageSet& images) {
  const std::string bytes = read_file(path);
  if (bytes.size() != kCifarFileBytes) {
    mismatch(path, "size of a CIFAR-10 binary file", fmt::format("{} bytes", kCifarFileBytes),
             fmt::format("{} bytes", bytes.size()));
  }
  images.labels.reserve(images.labels.size() + kCifarFileRecords);
  images.pixels.reserve(images.pixels.size() + bytes.size());
  for (std::size_t record = 0; record < kCifarFileRecords; ++record) {
    const auto* start =
        reinterpret_cast<const std::uint8_t*>(bytes.data()) + record * kCifarRecordBytes;
    check_label(path, record, *start);
    images.labels.push_back(*start);
    images.pixels.insert(images.pixels.end(), start + 1, start + kCifarRecordBytes);
  }
}

ImageSet read_idx_images(const fs::path& images_path, const fs::path& labels_path) {
  IdxFile images(images_path);
  images.expect("magic number", kIdxImagesMagic);
  const std::uint32_t count = images.next_field("number of images");
  images.expect("rows of an image", kIdxSide);
  images.expect("columns of an image", kIdxSide);
  const std::uint8_t* pixels = images.payload(std::uint64_t{count} * kIdxSide * kIdxSide);

  IdxFile labels(labels_path);
  labels.expect("magic number", kIdxLabelsMagic);
  labels.expect("number of labels", count);
  const std::uint8_t* label = labels.payload(count);
  for (std::uint32_t i = 0; i < count; ++i) check_label(labels_path, i, label[i]);
  return {.channels = 1, .pixels = pad_images(pixels, count), .labels = {label, label + count}};
}

}  // namespace resnet_example
