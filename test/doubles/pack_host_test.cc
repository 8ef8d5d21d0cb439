// The copying kernel's table and its double, against the definitions of the formats.

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>

#include "collectives/half_oracle.h"
#include "collectives/reduce_oracle.h"
#include "cuda/pack.h"
#include "doubles/support.h"

namespace kolo::doubles {
namespace {

using core::DataType;
using core::cuda::Copy;
using core::cuda::launch_copies;
using core::cuda::PackFormat;
using core::oracle::Bytes;
using ::testing::HasSubstr;

/// An element of bytes of memory that need not be aligned to it.
long double value_of(DataType dtype, const std::byte* bytes) {
  Bytes one(core::size_of(dtype));
  std::memcpy(one.data(), bytes, one.size());
  return core::oracle::value_at(dtype, one, 0);
}

long double rounded(DataType dtype, long double value) {
  using namespace core::oracle;  // NOLINT(google-build-using-namespace)
  if (dtype == DataType::Float16) return decode<Float16Format>(encode<Float16Format>(value));
  if (dtype == DataType::BFloat16) return decode<BFloat16Format>(encode<BFloat16Format>(value));
  if (dtype == DataType::Float32) return static_cast<float>(value);
  return static_cast<double>(value);
}

/// A product is one of the format that elements are multiplied in.
long double expected(const PackFormat& format, long double value) {
  if (format.scale == 1.0) return rounded(format.to, value);
  if (format.from == DataType::Float64) {
    return static_cast<double>(format.scale) * static_cast<double>(value);
  }
  const float product = static_cast<float>(static_cast<float>(format.scale) * value);
  return rounded(format.to, product);
}

bool is_same(long double a, long double b) {
  return (std::isnan(a) && std::isnan(b)) || (a == b && std::signbit(a) == std::signbit(b));
}

class PackHost : public Doubles {
 protected:
  std::byte* bytes_of_device(std::size_t count) { return device_memory<std::byte>(count).data(); }

  /// A copy of random bits from one odd place to another.
  void check(const PackFormat& format, std::int64_t count, std::size_t from_skip,
             std::size_t to_skip) {
    const std::size_t from_size = core::size_of(format.from);
    const std::size_t to_size = core::size_of(format.to);
    const auto n = static_cast<std::size_t>(count);
    const Bytes bits = core::oracle::random_bits(format.from, count, n + 1);
    std::byte* const from =
        bytes_of_device((n + from_skip) * from_size + 1) + from_skip * from_size;
    const std::size_t to_bytes = (n + to_skip + 1) * to_size;
    std::byte* const to_begin = bytes_of_device(to_bytes);
    std::byte* const to = to_begin + to_skip * to_size;
    std::memcpy(from, bits.data(), bits.size());
    const Copy copies[] = {{from, to, count}};
    ASSERT_TRUE(launch_copies(copies, format, stream_).ok());
    ASSERT_EQ(cudaStreamSynchronize(stream_), cudaSuccess);
    if (format.from == format.to && format.scale == 1.0) {
      EXPECT_EQ(std::memcmp(from, to, n * to_size), 0);
    }
    for (std::size_t i = 0; i < n && core::is_floating(format.from); ++i) {
      const long double value = value_of(format.from, from + i * from_size);
      ASSERT_TRUE(is_same(value_of(format.to, to + i * to_size), expected(format, value)))
          << to_string(format.from) << " to " << to_string(format.to) << " x " << format.scale
          << ", element " << i << ": " << value;
    }
    for (std::byte* byte = to_begin; byte < to_begin + to_bytes; ++byte) {
      const bool is_target = byte >= to && byte < to + n * to_size;
      ASSERT_TRUE(is_target || *byte == std::byte{kPoison});
    }
  }

  cudaStream_t stream_ = new_stream();
};

TEST_F(PackHost, CopiesElementsOfAllTypesAsTheyAre) {
  for (int dtype = 0; dtype < core::kDataTypeCount; ++dtype) {
    const auto type = static_cast<DataType>(dtype);
    for (const std::int64_t count : {1, 3, 17, 1023, 20001}) check({type, type}, count, 1, 3);
  }
  expect_no_misuses();
}

TEST_F(PackHost, ScalesAndConverts) {
  for (const DataType from : {DataType::Float32, DataType::Float16, DataType::BFloat16}) {
    for (const DataType to : {DataType::Float32, DataType::Float16, DataType::BFloat16}) {
      for (const double scale : {1.0, 0.5, -3.0, 1.0 / 3.0, 0.1})
        check({from, to, scale}, 9001, 1, 2);
    }
  }
  check({DataType::Float64, DataType::Float64, 1.0 / 3.0}, 5001, 1, 0);
  expect_no_misuses();
}

TEST_F(PackHost, ManyCopiesInFewLaunches) {
  constexpr std::size_t kCopies = 1000;
  std::vector<Copy> copies;
  const std::span<float> from = device_memory<float>(kCopies * 20);
  const std::span<float> to = device_memory<float>(kCopies * 20);
  std::vector<float> expected_values;
  for (std::size_t i = 0, place = 0; i < kCopies; ++i) {
    const std::size_t count = i % 20;
    copies.push_back({&from[i * 20], &to[place], static_cast<std::int64_t>(count)});
    for (std::size_t k = 0; k < count; ++k) {
      from[i * 20 + k] = static_cast<float>(i * 20 + k);
      expected_values.push_back(2 * from[i * 20 + k]);
    }
    place += count;
  }
  ASSERT_TRUE(launch_copies(copies, {DataType::Float32, DataType::Float32, 2.0}, stream_).ok());
  ASSERT_EQ(cudaStreamSynchronize(stream_), cudaSuccess);
  EXPECT_THAT(to.first(expected_values.size()), ::testing::ElementsAreArray(expected_values));
  EXPECT_EQ(calls("launch_table"), 8);  // 950 copies that are not empty, 128 at a time
  ASSERT_TRUE(launch_copies({}, {DataType::Int8, DataType::Int8}, stream_).ok());
  EXPECT_EQ(calls("launch_table"), 8);
  expect_no_misuses();
}

TEST_F(PackHost, ScalesInPlace) {
  const std::span<double> values = device_memory<double>(5000);
  std::ranges::fill(values, 3.0);
  const Copy copies[] = {{values.data(), values.data(), 5000}};
  ASSERT_TRUE(launch_copies(copies, {DataType::Float64, DataType::Float64, 0.5}, stream_).ok());
  ASSERT_EQ(cudaStreamSynchronize(stream_), cudaSuccess);
  EXPECT_THAT(values, ::testing::Each(1.5));
}

TEST_F(PackHost, SaysWhyNot) {
  const std::span<float> values = device_memory<float>(8);
  const auto why = [&](const Copy& copy, const PackFormat& format) {
    return launch_copies({&copy, 1}, format, stream_).message();
  };
  const Copy copy{values.data(), values.data() + 4, 4};
  EXPECT_THAT(why(copy, {DataType::Float64, DataType::Float32}), HasSubstr("does not convert"));
  EXPECT_THAT(why(copy, {DataType::Int32, DataType::Int32, 2.0}), HasSubstr("does not multiply"));
  const Copy odd{reinterpret_cast<std::byte*>(values.data()) + 1, values.data() + 4, 2};
  EXPECT_THAT(why(odd, {DataType::Float32, DataType::Float32}), HasSubstr("not aligned"));
  const Copy overlapping{values.data(), values.data() + 1, 4};
  EXPECT_THAT(why(overlapping, {DataType::Float32, DataType::Float32}), HasSubstr("overlaps"));
  const Copy shrinking{values.data(), values.data(), 4};
  EXPECT_THAT(why(shrinking, {DataType::Float32, DataType::Float16}), HasSubstr("overlaps"));
  fail("launch_table", 0, cudaErrorLaunchFailure);
  EXPECT_THAT(why(copy, {DataType::Float32, DataType::Float32}),
              HasSubstr("cudaLaunchKernel of 1 copies of float32 to float32 failed: unspecified "
                        "launch failure (cudaErrorLaunchFailure)"));
}

}  // namespace
}  // namespace kolo::doubles
