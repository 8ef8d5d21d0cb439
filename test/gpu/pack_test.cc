// The copying kernel on a device, against the host's arithmetic.

#include "cuda/pack.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <memory>
#include <span>
#include <vector>

#include "collectives/reduce_oracle.h"
#include "doubles/pack_arithmetic.h"

namespace kolo::core::cuda {
namespace {

using oracle::Bytes;

struct Free {
  void operator()(std::byte* memory) const { cudaFree(memory); }
};
using DeviceMemory = std::unique_ptr<std::byte, Free>;

DeviceMemory copy_to_device(const Bytes& bytes) {
  void* memory = nullptr;
  EXPECT_EQ(cudaMalloc(&memory, bytes.size() + 1), cudaSuccess);
  EXPECT_EQ(cudaMemcpy(memory, bytes.data(), bytes.size(), cudaMemcpyHostToDevice), cudaSuccess);
  // The copy may still be on its way, and the streams here do not wait for it.
  EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  return DeviceMemory(static_cast<std::byte*>(memory));
}

Bytes copy_to_host(const DeviceMemory& memory, std::size_t size) {
  Bytes bytes(size);
  EXPECT_EQ(cudaMemcpy(bytes.data(), memory.get(), size, cudaMemcpyDeviceToHost), cudaSuccess);
  return bytes;
}

/// A copy by places in elements, each in a vector of its own.
struct Piece {
  std::int64_t from;
  std::int64_t to;
  std::int64_t count;
};

class Pack : public ::testing::Test {
 protected:
  void SetUp() override {
    int devices = 0;
    const cudaError_t error = cudaGetDeviceCount(&devices);
    if (error != cudaSuccess || devices == 0) {
      GTEST_SKIP() << "no device: " << cudaGetErrorString(error);
    }
    ASSERT_EQ(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), cudaSuccess);
  }
  void TearDown() override {
    if (stream_ != nullptr) cudaStreamDestroy(stream_);
  }

  /// What the device makes of the pieces, and what the host does, must be the same, also around
  /// them.
  void check(const PackFormat& format, std::span<const Piece> pieces) {
    std::int64_t from_count = 1;
    std::int64_t to_count = 1;
    for (const Piece& piece : pieces) {
      from_count = std::max(from_count, piece.from + piece.count);
      to_count = std::max(to_count, piece.to + piece.count + 3);
    }
    Bytes from = oracle::random_bits(format.from, from_count, 1);
    Bytes to = oracle::random_bits(format.to, to_count, 2);
    const DeviceMemory device_from = copy_to_device(from);
    const DeviceMemory device_to = copy_to_device(to);
    const auto copies_between = [&](std::byte* source, std::byte* target) {
      std::vector<Copy> copies;
      for (const Piece& piece : pieces) {
        copies.push_back({source + static_cast<std::size_t>(piece.from) * size_of(format.from),
                          target + static_cast<std::size_t>(piece.to) * size_of(format.to),
                          piece.count});
      }
      return copies;
    };
    const Status status =
        launch_copies(copies_between(device_from.get(), device_to.get()), format, stream_);
    ASSERT_TRUE(status.ok()) << status.message();
    ASSERT_EQ(cudaStreamSynchronize(stream_), cudaSuccess);
    for (const Copy& copy : copies_between(from.data(), to.data())) {
      doubles::copy_elements(copy, format);
    }
    const Bytes result = copy_to_host(device_to, to.size());
    const bool is_same = format.from == format.to && format.scale == 1.0
                             ? result == to
                             : oracle::same_values(format.to, result, to);
    ASSERT_TRUE(is_same) << to_string(format.from) << " to " << to_string(format.to) << " x "
                         << format.scale << ", " << pieces.size() << " pieces, the first "
                         << pieces.front().from << " -> " << pieces.front().to << " of "
                         << pieces.front().count;
  }

  void check_places_and_counts(const PackFormat& format) {
    for (const std::int64_t count : {1, 2, 7, 15, 16, 17, 31, 1000, 4096, 16384, 16385, 100003}) {
      for (const std::int64_t from : {0, 1, 3, 8}) {
        for (const std::int64_t to : {0, 1, 2, 8}) {
          const Piece piece{from, to, count};
          check(format, {&piece, 1});
          if (HasFatalFailure()) return;
        }
      }
    }
  }

  cudaStream_t stream_ = nullptr;
};

TEST_F(Pack, CopiesElementsOfAllTypesAsTheyAre) {
  for (int dtype = 0; dtype < kDataTypeCount; ++dtype) {
    check_places_and_counts({static_cast<DataType>(dtype), static_cast<DataType>(dtype)});
    if (HasFatalFailure()) return;
  }
}

TEST_F(Pack, ScalesAndConverts) {
  constexpr DataType kTypes[] = {DataType::Float32, DataType::Float16, DataType::BFloat16};
  for (const DataType from : kTypes) {
    for (const DataType to : kTypes) {
      for (const double scale : {1.0, 0.125, -3.0, 1.0 / 3.0}) {
        check_places_and_counts({from, to, scale});
        if (HasFatalFailure()) return;
      }
    }
  }
  check_places_and_counts({DataType::Float64, DataType::Float64, 1.0 / 3.0});
}

TEST_F(Pack, AllHalvesAreConverted) {
  for (const DataType type : {DataType::Float16, DataType::BFloat16}) {
    Bytes halves(2 * 65536);
    for (std::size_t i = 0; i < 65536; ++i) {
      const auto bits = static_cast<std::uint16_t>(i);
      std::memcpy(&halves[2 * i], &bits, 2);
    }
    Bytes floats(4 * 65536);
    const DeviceMemory from = copy_to_device(halves);
    const DeviceMemory to = copy_to_device(floats);
    const Copy copy{from.get(), to.get(), 65536};
    ASSERT_TRUE(launch_copies({&copy, 1}, {type, DataType::Float32}, stream_).ok());
    ASSERT_EQ(cudaStreamSynchronize(stream_), cudaSuccess);
    doubles::copy_elements({halves.data(), floats.data(), 65536}, {type, DataType::Float32});
    EXPECT_TRUE(oracle::same_values(DataType::Float32, copy_to_host(to, floats.size()), floats));
  }
}

TEST_F(Pack, NoCopiesAndMany) {
  EXPECT_TRUE(launch_copies({}, {DataType::Int8, DataType::Int8}, stream_).ok());
  std::vector<Piece> pieces;
  std::int64_t place = 5;
  for (std::int64_t i = 0; i < 1000; ++i) {
    const std::int64_t count = i % 50 == 0 ? 20000 + i : i % 37;
    pieces.push_back({place + i % 3, place, count});
    place += count + i % 2;
  }
  check({DataType::Float32, DataType::Float32}, pieces);
  check({DataType::Float32, DataType::BFloat16, 0.5}, pieces);
  check({DataType::Float16, DataType::Float32}, pieces);
  check({DataType::UInt8, DataType::UInt8}, pieces);
}

TEST_F(Pack, ScalesInPlace) {
  Bytes values = oracle::random_bits(DataType::Float32, 100001, 3);
  const DeviceMemory memory = copy_to_device(values);
  const PackFormat format{DataType::Float32, DataType::Float32, 0.3};
  const Copy copy{memory.get() + 4, memory.get() + 4, 100000};
  ASSERT_TRUE(launch_copies({&copy, 1}, format, stream_).ok());
  ASSERT_EQ(cudaStreamSynchronize(stream_), cudaSuccess);
  doubles::copy_elements({values.data() + 4, values.data() + 4, 100000}, format);
  EXPECT_TRUE(oracle::same_values(DataType::Float32, copy_to_host(memory, values.size()), values));
}

}  // namespace
}  // namespace kolo::core::cuda
