#include "bench/statistics.h"

#include <gtest/gtest.h>

namespace kolo::bench {
namespace {

void expect_quartiles(std::vector<double> samples, double p25, double median, double p75) {
  const Summary found = summary_of(samples);
  EXPECT_DOUBLE_EQ(found.p25, p25);
  EXPECT_DOUBLE_EQ(found.median, median);
  EXPECT_DOUBLE_EQ(found.p75, p75);
  EXPECT_EQ(found.n, samples.size());
}

TEST(Statistics, Quartiles) {
  expect_quartiles({7}, 7, 7, 7);
  expect_quartiles({1, 2}, 1.25, 1.5, 1.75);
  expect_quartiles({5, 1, 4, 2, 3}, 2, 3, 4);
  expect_quartiles({4, 3, 2, 1}, 1.75, 2.5, 3.25);
  expect_quartiles({-1, -2, 1e9, -3, -4}, -3, -2, -1);
}

TEST(Statistics, Tail) {
  std::vector<double> samples;
  for (int i = 0; i < 201; ++i) samples.push_back(i % 67);
  EXPECT_DOUBLE_EQ(summary_of(samples).p99, 66);
  samples.back() = 1e9;
  EXPECT_DOUBLE_EQ(summary_of(samples).p99, 66);
  EXPECT_DOUBLE_EQ(summary_of(samples).max, 1e9);
  EXPECT_DOUBLE_EQ(summary_of({2, 1}).p99, 1.99);
  EXPECT_DOUBLE_EQ(summary_of({-3, -7}).max, -3);
}

TEST(Statistics, RatiosArePairByPair) {
  // The medians are 2 and 4, but their quotient is not what the pairs say.
  const std::vector<double> found = ratios({1, 2, 9}, {4, 1, 9});
  EXPECT_EQ(found, (std::vector<double>{0.25, 2, 1}));
  EXPECT_DOUBLE_EQ(summary_of(found).median, 1);
}

TEST(Statistics, DifferencesArePairByPair) {
  EXPECT_EQ(differences({1, 2, 9}, {4, 1, 9}), (std::vector<double>{-3, 1, 0}));
}

TEST(Statistics, Scaled) {
  const std::vector<Series> found = scaled({{"a", {1, 2}}, {"b", {3}}}, 1000);
  EXPECT_EQ(found[0].method, "a");
  EXPECT_EQ(found[0].samples, (std::vector<double>{1000, 2000}));
  EXPECT_EQ(found[1].samples, (std::vector<double>{3000}));
}

}  // namespace
}  // namespace kolo::bench
