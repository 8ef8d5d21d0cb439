#include "bench/sampling.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <algorithm>
#include <stdexcept>

#include "bench/memory_use.h"

namespace kolo::bench {
namespace {

TEST(Sampling, EveryMethodInEveryRoundInTurnFirst) {
  std::string order;
  const auto method = [&order](const char* name) {
    return Method{name, [&order, name] {
                    order += name;
                    return static_cast<double>(order.size());
                  }};
  };
  const std::vector<Series> series = take_samples({method("a"), method("b"), method("c")},
                                                  {.seconds = 0, .fewest_rounds = 3}, Ranks());
  EXPECT_EQ(order,
            "abc"
            "abc"
            "bca"
            "cab");
  ASSERT_EQ(series.size(), 3U);
  EXPECT_EQ(series[0].method, "a");
  EXPECT_EQ(series[0].samples, (std::vector<double>{4, 9, 11}));
  EXPECT_EQ(series[2].method, "c");
  EXPECT_EQ(series[2].samples, (std::vector<double>{6, 8, 10}));
}

TEST(Sampling, ShortCallsAreMadeInARow) {
  const Ranks alone;
  std::size_t most = 0;
  // A pause of the machine may make a call long, though not each time.
  for (int i = 0; i < 5; ++i) {
    std::size_t calls = 0;
    const Stopwatch stopwatch([&calls] { ++calls; }, alone);
    calls = 0;
    EXPECT_GE(stopwatch(), 0);
    most = std::max(most, calls);
  }
  EXPECT_GT(most, 1U);
}

TEST(MemoryUse, GrowsWithWhatIsTouched) {
  constexpr std::int64_t kMebi = 1 << 20;
  forget_peak();
  const std::int64_t before = memory_use().now;
  {
    const std::vector<char> kept(64 * kMebi, 1);
    EXPECT_GE(memory_use().now - before, 60 * kMebi);
  }
  const MemoryUse after = memory_use();
  EXPECT_GE(after.now + after.peak_beyond_now - before, 60 * kMebi);
}

TEST(MemoryUse, APeakThatStaysIsAnError) {
  rlimit files{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &files), 0);
  const rlimit none{.rlim_cur = 0, .rlim_max = files.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &none), 0);
  std::string message;
  try {
    forget_peak();
  } catch (const std::runtime_error& error) {
    message = error.what();
  }
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &files), 0);
  EXPECT_THAT(message, ::testing::HasSubstr("cannot write /proc/self/clear_refs (Too many open"));
}

TEST(MemoryUse, LinesOfProc) {
  const std::string text = "Rss:   12 kB\nPss:    7 kB\nPss_Anon:  3 kB\nEmpty:\n";
  EXPECT_EQ(find_kilobytes(text, "Pss"), 7 * 1024);
  EXPECT_EQ(find_kilobytes(text, "Pss_Anon"), 3 * 1024);
  EXPECT_EQ(find_kilobytes(text, "Empty"), -1);
  EXPECT_EQ(find_kilobytes(text, "Pss_Shmem"), -1);
}

}  // namespace
}  // namespace kolo::bench
