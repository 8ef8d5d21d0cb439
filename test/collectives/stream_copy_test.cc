#include "data/stream_copy.h"

#include <gtest/gtest.h>
#include <hwy/targets.h>

#include <algorithm>
#include <cstddef>
#include <vector>

namespace kolo::core {
namespace {

using Bytes = std::vector<std::byte>;

Bytes numbered(std::size_t count) {
  Bytes bytes(count);
  for (std::size_t i = 0; i < count; ++i) bytes[i] = static_cast<std::byte>(i * 7 + 1);
  return bytes;
}

// Anywhere, and not a byte more.
TEST(StreamCopy, CopiesOnEveryTarget) {
  const Bytes source = numbered(5000);
  for (const std::int64_t hwy_target : hwy::SupportedAndGeneratedTargets()) {
    hwy::SetSupportedTargetsForTest(hwy_target);
    for (const std::size_t bytes : {0U, 1U, 15U, 16U, 63U, 64U, 65U, 200U, 4097U}) {
      for (const std::ptrdiff_t from : {0, 1, 16, 61}) {
        for (const std::ptrdiff_t to : {0, 1, 16, 63}) {
          Bytes target(5000);
          Bytes expected(5000);
          std::copy_n(source.begin() + from, bytes, expected.begin() + to);
          stream_copy(target.data() + to, source.data() + from, bytes);
          EXPECT_EQ(target, expected) << bytes << " bytes from " << from << " to " << to << ", "
                                      << hwy::TargetName(hwy_target);
        }
      }
    }
  }
  hwy::SetSupportedTargetsForTest(0);
}

TEST(StreamCopy, CopiesNothingFromNowhere) { stream_copy(nullptr, nullptr, 0); }

}  // namespace
}  // namespace kolo::core
