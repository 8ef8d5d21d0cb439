// Every answer to a tensor's device: of one host with one GPU, or none, only some can be seen.

#include "device_refusal.h"

#include <c10/util/StringUtil.h>
#include <gmock/gmock.h>

namespace kolo::detail {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::StartsWith;
using Gpu = core::Result<std::optional<int>>;

const Gpu kNone = std::optional<int>();
const Gpu kFirst = std::optional<int>(0);
const Gpu kSecond = std::optional<int>(1);
const Gpu kRefused = core::Status::error("4 ranks on this host cannot share its 2 GPUs");

c10::Device cuda(int index) { return {c10::kCUDA, static_cast<c10::DeviceIndex>(index)}; }

TEST(DeviceRefusalTest, TheCpuWhateverTheGpu) {
  for (const Gpu* gpu : {&kNone, &kFirst, &kSecond, &kRefused}) {
    EXPECT_THAT(device_refusal(*gpu, c10::kCPU), IsEmpty());
  }
}

TEST(DeviceRefusalTest, TheRanksOwnGpu) {
  EXPECT_THAT(device_refusal(kFirst, cuda(0)), IsEmpty());
  EXPECT_THAT(device_refusal(kSecond, cuda(1)), IsEmpty());
}

TEST(DeviceRefusalTest, AnotherGpuThanTheRanksOwn) {
  EXPECT_EQ(device_refusal(kFirst, cuda(1)),
            "the tensor is on device cuda:1, but this rank uses cuda:0: put its tensors on "
            "kolo::local_device()");
  EXPECT_THAT(device_refusal(kSecond, cuda(0)),
              AllOf(HasSubstr("device cuda:0,"), HasSubstr("uses cuda:1:")));
}

// kolo::empty() knows what it means by then.
TEST(DeviceRefusalTest, AGpuWithoutANumber) {
  EXPECT_THAT(device_refusal(kFirst, c10::kCUDA),
              AllOf(StartsWith("the tensor is on device cuda,"), HasSubstr("uses cuda:0:")));
}

TEST(DeviceRefusalTest, NoGpu) {
  EXPECT_EQ(device_refusal(kNone, cuda(1)),
            "the tensor is on device cuda:1, but this rank uses no GPU: call cpu() first");
}

TEST(DeviceRefusalTest, AGpuThatWasRefused) {
  for (const int index : {0, 1}) {
    EXPECT_EQ(device_refusal(kRefused, cuda(index)),
              c10::str("the tensor is on device cuda:", index,
                       ", but 4 ranks on this host cannot share its 2 GPUs"));
  }
}

TEST(DeviceRefusalTest, NeitherTheCpuNorAGpu) {
  for (const Gpu* gpu : {&kNone, &kFirst, &kRefused}) {
    EXPECT_EQ(device_refusal(*gpu, c10::DeviceType::Meta),
              "the tensor is on device meta, but Kolo works on CPU and CUDA tensors: call cpu() "
              "first");
  }
}

}  // namespace
}  // namespace kolo::detail
