#include "launch/values.h"

#include <gtest/gtest.h>

#include <limits>

namespace kolo::launch {
namespace {

TEST(ParseCount, TakesWholeNumbersFromOne) {
  EXPECT_EQ(parse_count("1"), 1);
  EXPECT_EQ(parse_count("128"), 128);
  EXPECT_EQ(parse_count("1000000"), kMaxCount);
  for (const auto* text :
       {"", "0", "-3", "+2", " 2", "2 ", "2x", "x", "1.5", "1000001", "99999999999999999999"}) {
    EXPECT_EQ(parse_count(text), std::nullopt) << text;
  }
}

TEST(ParseBytes, TakesPowersOf1024) {
  EXPECT_EQ(parse_bytes("0"), 0U);
  EXPECT_EQ(parse_bytes("1024"), 1024U);
  EXPECT_EQ(parse_bytes("7B"), 7U);
  EXPECT_EQ(parse_bytes("32K"), 32U << 10);
  EXPECT_EQ(parse_bytes("32M"), 32U << 20);
  EXPECT_EQ(parse_bytes("64MiB"), 64U << 20);
  EXPECT_EQ(parse_bytes("64mib"), 64U << 20);
  EXPECT_EQ(parse_bytes("2G"), std::uint64_t{2} << 30);
  EXPECT_EQ(parse_bytes("18446744073709551615"), std::numeric_limits<std::uint64_t>::max());
}

TEST(ParseBytes, RefusesWhatIsNoSize) {
  for (const auto* text : {"", "M", "-1", "64MB", "64 MiB", "1.5M", "1T", "x", "0x10",
                           "18446744073709551616", "17179869184G"}) {
    EXPECT_EQ(parse_bytes(text), std::nullopt) << text;
  }
}

TEST(ShellQuote, LeavesPlainWordsAlone) {
  for (const auto* word : {"./train", "--lr=0.1", "node1:2,node2:2", "a_b%c@d+e"}) {
    EXPECT_EQ(shell_quote(word), word);
  }
}

TEST(ShellQuote, QuotesTheRest) {
  EXPECT_EQ(shell_quote(""), "''");
  EXPECT_EQ(shell_quote("a b"), "'a b'");
  EXPECT_EQ(shell_quote("$HOME;*"), "'$HOME;*'");
  EXPECT_EQ(shell_quote("it's"), "'it'\\''s'");
  EXPECT_EQ(shell_quote("~"), "'~'");
  EXPECT_EQ(shell_quote("#"), "'#'");
}

}  // namespace
}  // namespace kolo::launch
