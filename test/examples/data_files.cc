#include "data_files.h"

#include <zlib.h>

#include <fstream>
#include <stdexcept>

#include "readers.h"

namespace resnet_example::testing {

void write_cifar10_file(const std::filesystem::path& path,
                        const std::vector<std::uint8_t>& labels) {
  std::filesystem::create_directories(path.parent_path());
  std::ofstream file(path, std::ios::binary);
  for (std::size_t i = 0; i < labels.size(); ++i) {
    const std::string pixels(kCifarRecordBytes - 1, static_cast<char>(i));
    file << static_cast<char>(labels[i]) << pixels;
  }
  file.close();
  std::filesystem::resize_file(path, kCifarFileBytes);
}

void write_cifar10(const std::filesystem::path& folder) {
  for (const char* name : {"data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin",
                           "data_batch_4.bin", "data_batch_5.bin", "test_batch.bin"}) {
    write_cifar10_file(folder / name, {3, 1, 4});
  }
}

std::string idx_bytes(std::uint32_t magic, const std::vector<std::uint32_t>& dimensions,
                      const std::string& payload) {
  std::string bytes;
  auto append = [&](std::uint32_t value) {
    for (int shift = 24; shift >= 0; shift -= 8) bytes += static_cast<char>(value >> shift & 0xff);
  };
  append(magic);
  for (const std::uint32_t dimension : dimensions) append(dimension);
  return bytes + payload;
}

void write_gzip(const std::filesystem::path& path, const std::string& bytes) {
  std::filesystem::create_directories(path.parent_path());
  gzFile file = gzopen(path.c_str(), "wb1");
  const int written = gzwrite(file, bytes.data(), static_cast<unsigned>(bytes.size()));
  if (gzclose(file) != Z_OK || written != static_cast<int>(bytes.size())) {
    throw std::runtime_error("cannot write " + path.string());
  }
}

void write_fashion_mnist(const std::filesystem::path& folder, std::uint32_t count) {
  std::string pixels;
  std::string labels;
  for (std::uint32_t i = 0; i < count; ++i) {
    pixels += std::string(std::size_t{28} * 28, static_cast<char>(i));
    labels += static_cast<char>(i % 10);
  }
  for (const std::string part : {"train", "t10k"}) {
    write_gzip(folder / (part + "-images-idx3-ubyte.gz"),
               idx_bytes(0x803, {count, 28, 28}, pixels));
    write_gzip(folder / (part + "-labels-idx1-ubyte.gz"), idx_bytes(0x801, {count}, labels));
  }
}

}  // namespace resnet_example::testing
