// Which GPU a rank takes, and why none, on doubles of CUDA and NCCL.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <optional>

#include "context/gpu_planes.h"
#include "doubles/doubles.h"

namespace kolo::core {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

GpuPlane connect(const doubles::Settings& settings, const Topology& topology,
                 const Config& config = {}) {
  doubles::reset(settings);
  return connect_gpu(config, topology, {});
}

std::optional<int> chosen(const GpuPlane& plane) {
  EXPECT_TRUE(plane.gpu.ok()) << plane.gpu.status().message();
  EXPECT_EQ(plane.plane != nullptr, plane.gpu.value().has_value());
  return plane.gpu.value();
}

std::string refusal(const GpuPlane& plane) {
  EXPECT_EQ(plane.plane, nullptr);
  EXPECT_FALSE(plane.gpu.ok());
  return plane.gpu.ok() ? "" : plane.gpu.status().message();
}

constexpr Topology kThirdOfFour{.rank = 6, .size = 8, .local_rank = 2, .local_size = 4};

TEST(GpuChoice, OneForEachRankOfTheHost) {
  EXPECT_EQ(chosen(connect({.devices = 4}, kThirdOfFour)), 2);
  EXPECT_EQ(chosen(connect({.devices = 8}, kThirdOfFour)), 2);
  // Each rank may see another one.
  EXPECT_EQ(chosen(connect({.devices = 1}, kThirdOfFour)), 0);
}

TEST(GpuChoice, TooFewForTheRanks) {
  EXPECT_THAT(refusal(connect({.devices = 2}, kThirdOfFour)),
              AllOf(HasSubstr("2 GPUs for 4 ranks"), HasSubstr("KOLO_SHARED_GPU=on")));
  Config shared;
  shared.shared_gpu = true;
  EXPECT_EQ(chosen(connect({.devices = 2}, kThirdOfFour, shared)), 0);
}

TEST(GpuChoice, NoGpuOrNoDriver) {
  EXPECT_EQ(chosen(connect({.devices = 0}, kThirdOfFour)), std::nullopt);
  EXPECT_EQ(chosen(connect({.driver_version = 0}, kThirdOfFour)), std::nullopt);
  // NCCL is not asked for.
  EXPECT_EQ(doubles::calls("ncclGetVersion"), 0);
}

TEST(GpuChoice, DriverOlderThanTheRuntime) {
  EXPECT_THAT(refusal(connect({.driver_version = 12040}, kThirdOfFour)),
              AllOf(HasSubstr("one for CUDA 12.4, but the program has CUDA 13."),
                    HasSubstr("install a driver")));
}

TEST(GpuChoice, NcclMissingOrOlderThanCompiledWith) {
  doubles::reset();
  doubles::fail("ncclGetVersion", 0, ncclSystemError);
  EXPECT_THAT(refusal(connect_gpu({}, kThirdOfFour, {})), HasSubstr("ncclGetVersion: "));
  EXPECT_THAT(
      refusal(connect({.nccl_version = NCCL_VERSION_CODE - 100}, kThirdOfFour)),
      AllOf(HasSubstr("was found, but Kolo was compiled with"), HasSubstr("LD_LIBRARY_PATH")));
}

}  // namespace
}  // namespace kolo::core
