#pragma once

/// Writes data files, right ones and wrong ones.

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace resnet_example::testing {

/// Whole CIFAR-10 file: the labels given, and 0 for the rest; each image's pixels hold its number
/// modulo 256 (only as far as `labels` reaches; the rest is a hole of zeros).
void write_cifar10_file(const std::filesystem::path& path,
                        const std::vector<std::uint8_t>& labels = {});

/// All six files of CIFAR-10.
void write_cifar10(const std::filesystem::path& folder);

/// The bytes of an IDX file: magic number and dimensions, big-endian, then the payload.
std::string idx_bytes(std::uint32_t magic, const std::vector<std::uint32_t>& dimensions,
                      const std::string& payload);

void write_gzip(const std::filesystem::path& path, const std::string& bytes);

/// Fashion-MNIST's four files with `count` images each: image i has label i % 10, and its pixels
/// are i.
void write_fashion_mnist(const std::filesystem::path& folder, std::uint32_t count);

}  // namespace resnet_example::testing
