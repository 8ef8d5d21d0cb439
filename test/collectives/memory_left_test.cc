// How much memory there is left, by files of /proc and /sys as hosts and containers have them.

#include "base/memory_left.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <limits>
#include <string>

namespace kolo::core {
namespace {

class MemoryLeftTest : public ::testing::Test {
 protected:
  MemoryLeftTest() : root_(::testing::TempDir() + "memory_left." + std::to_string(::getpid())) {
    std::filesystem::remove_all(root_);
    write("/proc/meminfo", "MemTotal: 2000 kB\nMemAvailable:   1000 kB\nSwapFree:  24 kB\n");
  }
  ~MemoryLeftTest() override { std::filesystem::remove_all(root_); }

  void write(const std::string& path, const std::string& text) {
    std::filesystem::create_directories(std::filesystem::path(root_ + path).parent_path());
    std::ofstream(root_ + path) << text;
  }
  void write_group_of_v1(const std::string& path, const std::string& limit) {
    write("/sys/fs/cgroup/memory" + path + "/memory.limit_in_bytes", limit);
    write("/sys/fs/cgroup/memory" + path + "/memory.usage_in_bytes", "500000\n");
    write("/sys/fs/cgroup/memory" + path + "/memory.stat",
          "cache 300000\ntotal_inactive_file 20000\ntotal_active_file 10000\ninactive_file 7\n");
  }
  void expect(std::uint64_t bytes, const std::string& of) const {
    const MemoryLeft left = memory_left(root_);
    EXPECT_EQ(left.bytes, bytes);
    EXPECT_EQ(left.of, of);
  }

  const std::string root_;
};

constexpr const char* kUnlimited = "9223372036854771712\n";

TEST_F(MemoryLeftTest, OfAHost) { expect(1024 * 1024, "this host"); }

TEST_F(MemoryLeftTest, WhereNothingIsKnown) {
  std::filesystem::remove_all(root_);
  EXPECT_EQ(memory_left(root_).bytes, std::numeric_limits<std::uint64_t>::max());
}

TEST_F(MemoryLeftTest, OfVersion1) {
  write("/proc/self/mountinfo",
        "35 24 0:30 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"
        "36 24 0:31 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory\n");
  write("/proc/self/cgroup", "3:cpu:/other\n4:memory:/a/b\n0::/\n");
  write_group_of_v1("", kUnlimited);
  write_group_of_v1("/a", "600000\n");
  write_group_of_v1("/a/b", kUnlimited);
  expect(130000, "the cgroup /a (memory.limit_in_bytes is 600000 bytes)");
  write_group_of_v1("/a/b", "570000\n");
  expect(100000, "the cgroup /a/b (memory.limit_in_bytes is 570000 bytes)");
  write_group_of_v1("/a/b", "1000\n");
  expect(0, "the cgroup /a/b (memory.limit_in_bytes is 1000 bytes)");
}

// Its own part is mounted, but it is told of its place in the host's.
TEST_F(MemoryLeftTest, OfAContainerOfVersion1) {
  write("/proc/self/mountinfo",
        "36 24 0:31 /docker/c0 /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n");
  write("/proc/self/cgroup", "4:memory:/docker/c0/inner\n");
  write_group_of_v1("", "600000\n");
  expect(130000, "the cgroup / (memory.limit_in_bytes is 600000 bytes)");
  write_group_of_v1("/inner", "580000\n");
  expect(110000, "the cgroup /inner (memory.limit_in_bytes is 580000 bytes)");
}

TEST_F(MemoryLeftTest, OfVersion2) {
  write("/proc/self/mountinfo", "36 24 0:31 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n");
  write("/proc/self/cgroup", "0::/pod/train\n");
  write("/sys/fs/cgroup/pod/train/memory.max", "max\n");
  write("/sys/fs/cgroup/pod/memory.max", "700000\n");
  write("/sys/fs/cgroup/pod/memory.current", "400000\n");
  write("/sys/fs/cgroup/pod/memory.stat", "anon 1\nactive_file 1000\ninactive_file 2000\n");
  expect(303000, "the cgroup /pod (memory.max is 700000 bytes)");
}

TEST(MemoryLeftFor, MoreThanAnyHostHas) {
  EXPECT_TRUE(memory_left_for(std::size_t{1} << 20).ok());
  const Status refused = memory_left_for(std::size_t{1} << 60);
  ASSERT_FALSE(refused.ok());
  EXPECT_TRUE(refused.message().starts_with("1152921504606846976 bytes are wanted, but "))
      << refused.message();
}

}  // namespace
}  // namespace kolo::core
