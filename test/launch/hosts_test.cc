#include "launch/hosts.h"

#include <gtest/gtest.h>

#include <sstream>

#include "expect_usage_error.h"

namespace kolo::launch {
namespace {

using Hosts = std::vector<Host>;

Hosts from_file(const std::string& text) {
  std::istringstream lines(text);
  return parse_hostfile(lines, "hosts.txt");
}

TEST(ParseHosts, ReadsNamesAndSlots) {
  EXPECT_EQ(parse_hosts("node1"), (Hosts{{"node1", 1}}));
  EXPECT_EQ(parse_hosts("node1:2,node2:3"), (Hosts{{"node1", 2}, {"node2", 3}}));
  EXPECT_EQ(parse_hosts("10.0.0.1:4,b"), (Hosts{{"10.0.0.1", 4}, {"b", 1}}));
}

TEST(ParseHosts, ReadsIpv6Addresses) {
  const Hosts hosts{{"::1", 2}, {"fe80::1", 1}};
  EXPECT_EQ(parse_hosts("[::1]:2,[fe80::1]"), hosts);
  EXPECT_EQ(from_file("[::1] slots=2\n[fe80::1]:1\n"), hosts);
  EXPECT_EQ(to_string(hosts), "[::1]:2,[fe80::1]:1");
  EXPECT_TRUE(is_ipv6(hosts[0]));
  EXPECT_FALSE(is_ipv6({"node1", 1}));
}

TEST(ParseHosts, AddsUpAHostNamedTwice) {
  EXPECT_EQ(parse_hosts("a:2,b,a"), (Hosts{{"a", 3}, {"b", 1}}));
}

TEST(ParseHosts, RefusesMalformedOnes) {
  for (const auto* text : {"", ",", "a,", ",a", "a,,b", ":2", "a:", "a:0", "a:-1", "a:x", "a:1:2",
                           "a b", "a:2 b:2", "a: 2", "slots=2", "a:9999999", "[::1", "[]", "[::1]2", "::1", "[a]b:1"}) {
    expect_usage_error([&] { parse_hosts(text); },
                       {"-H '" + std::string(text) + "'", "for example -H node1:2,node2:2"});
  }
  expect_usage_error([] { parse_hosts("a:1000000,b:1"); }, {"more than 1000000 slots"});
}

TEST(ParseHostfile, ReadsEveryForm) {
  EXPECT_EQ(from_file("# cluster\n"
                      "node1\n"
                      "\n"
                      "  node2:2   # the big one\n"
                      "node3\tslots=4\r\n"
                      "node1 slots=2"),
            (Hosts{{"node1", 3}, {"node2", 2}, {"node3", 4}}));
}

TEST(ParseHostfile, NamesFileAndLineOfTheMistake) {
  for (const auto* line : {"b slots=0", "b slots=x", "b slots=", "b slots", "b 2", "b:2 slots=2",
                           "b slots=2 c", "b:", "slots=2", "b c"}) {
    expect_usage_error([&] { from_file("a\n" + std::string(line) + "\n"); },
                       {"hosts.txt:2:", line, "'host slots=N'"});
  }
}

TEST(ParseHostfile, RefusesAnEmptyOne) {
  expect_usage_error([] { from_file(""); }, {"hostfile 'hosts.txt' names no host"});
  expect_usage_error([] { from_file("# nothing\n\n"); }, {"names no host", "node1 slots=2"});
}

TEST(Hosts, CountAndPrint) {
  const Hosts hosts{{"a", 2}, {"b", 3}};
  EXPECT_EQ(total_slots(hosts), 5);
  EXPECT_EQ(total_slots({}), 0);
  EXPECT_EQ(to_string(hosts), "a:2,b:3");
}

TEST(Hosts, RanksFillThemInOrder) {
  const Hosts hosts{{"a", 2}, {"b", 3}};
  EXPECT_EQ(most_ranks_on_a_host(hosts, 1), 1);
  EXPECT_EQ(most_ranks_on_a_host(hosts, 4), 2);
  EXPECT_EQ(most_ranks_on_a_host(hosts, 5), 3);
}

}  // namespace
}  // namespace kolo::launch
