#include "launch/ranks.h"

#include <gtest/gtest.h>
#include <signal.h>

namespace kolo::launch {
namespace {

using Lines = std::vector<std::string>;

constexpr int exited(int code) { return code << 8; }

Ranks ranks_on(const std::vector<std::string>& hosts) {
  Ranks ranks(static_cast<int>(hosts.size()));
  for (std::size_t rank = 0; rank < hosts.size(); ++rank) {
    if (!hosts[rank].empty()) ranks.started(static_cast<int>(rank), hosts[rank]);
  }
  return ranks;
}

TEST(Ranks, WhoIsMissing) {
  EXPECT_EQ(ranks_on({"", "a", "", "", "", "a", ""}).missing(), "0, 2-4, 6");
  EXPECT_FALSE(ranks_on({"", "a"}).all_started());
  EXPECT_TRUE(ranks_on({"a", "a"}).all_started());
  EXPECT_FALSE(ranks_on({"", ""}).any_started());
}

TEST(Ranks, HowTheyEnded) {
  auto ranks = ranks_on({"a", "a", "b", "b", "b"});
  EXPECT_EQ(ranks.failure(), std::nullopt);
  ranks.ended(3, exited(0));
  ranks.ended(2, SIGSEGV);
  ranks.ended(0, exited(3));
  ranks.ended(1, exited(3));
  EXPECT_FALSE(ranks.all_ended());
  ranks.ended(4, SIGTERM);
  EXPECT_TRUE(ranks.all_ended());
  EXPECT_EQ(ranks.failure(), 128 + SIGSEGV);
  EXPECT_EQ(ranks.failures(), (Lines{"rank 2 on b was ended by SIGSEGV (Segmentation fault)",
                                     "ranks 0-1 on a ended with exit code 3"}));
}

TEST(Ranks, ATerminatedOneIsToldWhenItWasTheFirst) {
  auto ranks = ranks_on({"a", "a"});
  ranks.ended(1, SIGTERM);
  EXPECT_EQ(ranks.failures(), Lines{"rank 1 on a was ended by SIGTERM (Terminated)"});
}

}  // namespace
}  // namespace kolo::launch
