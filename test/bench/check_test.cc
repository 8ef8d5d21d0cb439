#include "bench/check.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <limits>
#include <span>
#include <stdexcept>
#include <vector>

namespace kolo::bench {
namespace {

using ::testing::HasSubstr;

/// As all ranks' contributions add up to, one by one.
std::vector<double> right_sums(int ranks, std::size_t tensor, std::size_t count) {
  std::vector<double> sums(count);
  for (int rank = 0; rank < ranks; ++rank) {
    for (std::size_t i = 0; i < count; ++i) sums[i] += contribution(rank, tensor, i);
  }
  return sums;
}

TEST(Check, RightSumsPass) {
  for (const int ranks : {1, 2, 3, 32, 63, 64, 65, 127, 128}) {
    EXPECT_EQ(find_wrong(right_sums(ranks, 5, 1000), ranks, 5), std::nullopt) << ranks;
  }
  EXPECT_EQ(find_wrong({}, 2, 0), std::nullopt);
}

TEST(Check, OneWrongElement) {
  std::vector<double> values = right_sums(2, 0, 1000);
  values[998] += 1;
  const auto wrong = find_wrong(values, 2, 0);
  ASSERT_TRUE(wrong.has_value());
  EXPECT_THAT(*wrong, HasSubstr("element 998 of 1000"));
}

TEST(Check, NearlyRightIsWrong) {
  std::vector<double> values = right_sums(2, 0, 100);
  values.front() += 1e-7;
  EXPECT_NE(find_wrong(values, 2, 0), std::nullopt);
}

TEST(Check, MissingRank) { EXPECT_NE(find_wrong(right_sums(2, 0, 100), 3, 0), std::nullopt); }

TEST(Check, RankCountedTwice) {
  std::vector<double> values = right_sums(2, 0, 100);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] += contribution(1, 0, i);
  EXPECT_NE(find_wrong(values, 2, 0), std::nullopt);
}

TEST(Check, ShiftedByOne) {
  std::vector<double> values = right_sums(2, 0, 101);
  values.erase(values.begin());
  EXPECT_NE(find_wrong(values, 2, 0), std::nullopt);
}

TEST(Check, AnotherTensor) { EXPECT_NE(find_wrong(right_sums(2, 1, 100), 2, 0), std::nullopt); }

/// A call of rank 1 of 3.
std::optional<std::string> checked(const std::function<void(std::span<double>)>& sum) {
  std::vector<double> values(100);
  return check_calls(values, 1, 3, [&] { sum(values); });
}

/// Sums that are right, by call.
class RightCalls {
 public:
  std::size_t calls() const { return calls_; }
  void operator()(std::span<double> values) {
    for (std::size_t i = 0; i < values.size(); ++i) {
      EXPECT_EQ(values[i], contribution(1, calls_, i)) << "call " << calls_;
    }
    std::ranges::copy(right_sums(3, calls_++, values.size()), values.begin());
  }

 private:
  std::size_t calls_ = 0;
};

TEST(Check, CallsThatAreRight) {
  RightCalls right;
  EXPECT_EQ(checked([&](std::span<double> values) { right(values); }), std::nullopt);
  EXPECT_EQ(right.calls(), kCheckedCalls);
}

TEST(Check, CallsThatGoWrongWhenANameRecurs) {
  RightCalls right;
  const auto wrong = checked([&](std::span<double> values) {
    right(values);
    if (right.calls() >= 3) values.back() += 1;
  });
  ASSERT_TRUE(wrong.has_value());
  EXPECT_THAT(*wrong, HasSubstr("call 3 of 5: element 99 of 100"));
  EXPECT_EQ(right.calls(), kCheckedCalls) << "the other ranks make them all";
}

TEST(Check, CallsThatDoNothing) {
  EXPECT_NE(checked([](std::span<double>) {}), std::nullopt);
}

TEST(Check, CallsThatLeaveTheSumsOfTheFirst) {
  const std::vector<double> sums = right_sums(3, 0, 100);
  const auto wrong =
      checked([&](std::span<double> values) { std::ranges::copy(sums, values.begin()); });
  ASSERT_TRUE(wrong.has_value());
  EXPECT_THAT(*wrong, HasSubstr("call 2 of 5"));
}

/// Of three ranks, two elements each.
constexpr std::array<float, 6> kContributions = {1, 1e20F, 2, -1e20F, 5, 3};

std::optional<std::string> checked_means(float first, float second) {
  return find_wrong_mean(std::array{first, second}, kContributions, 3);
}

TEST(Check, MeansPassAsFarAsFloat32IsExact) {
  const float a_third = 8.0F / 3;
  EXPECT_EQ(checked_means(a_third, 1), std::nullopt);
  EXPECT_EQ(checked_means(std::nextafter(a_third, 3.0F), 1), std::nullopt);
  EXPECT_EQ(checked_means(a_third, 0), std::nullopt) << "3 is lost beside 1e20";
  EXPECT_EQ(checked_means(1.0F / 3 + 2.0F / 3 + 5.0F / 3, 1), std::nullopt) << "scaled, then added";
  EXPECT_EQ(find_wrong_mean(std::array{0.0F}, std::array{1e-40F, 1e-40F}, 2), std::nullopt);
}

TEST(Check, MeansThatAreNearlyRightAreWrong) {
  const auto wrong = checked_means(8.0F / 3 * (1 + 1e-6F), 1);
  ASSERT_TRUE(wrong.has_value());
  EXPECT_THAT(*wrong, HasSubstr("element 0 of 2 is 2.66666"));
  EXPECT_THAT(*wrong, HasSubstr("but must be 2.66666"));
  EXPECT_THAT(checked_means(8.0F / 3, 1e15F).value_or(""), HasSubstr("element 1 of 2"));
}

TEST(Check, WhatIsNoMeanIsWrong) {
  EXPECT_NE(checked_means(8, 1), std::nullopt) << "the sum";
  EXPECT_NE(checked_means(1, 1), std::nullopt) << "a rank's own";
  EXPECT_NE(checked_means(1.5F, 1), std::nullopt) << "the mean of two of three";
  EXPECT_NE(checked_means(std::numeric_limits<float>::quiet_NaN(), 1), std::nullopt);
  EXPECT_NE(checked_means(std::numeric_limits<float>::infinity(), 1), std::nullopt);
}

TEST(Check, WrongResultsAreErrors) {
  require_right("kolo", std::nullopt, Ranks());
  try {
    require_right("kolo", "element 1 of 2", Ranks());
    ADD_FAILURE() << "no error";
  } catch (const std::runtime_error& error) {
    EXPECT_STREQ(error.what(), "kolo: a wrong result: element 1 of 2");
  }
}

TEST(Check, ContributionsDiffer) {
  double sum = 0;
  for (std::size_t i = 0; i < 1000; ++i) sum += contribution(0, 0, i);
  EXPECT_GT(sum, 400);
  EXPECT_LT(sum, 600);
}

}  // namespace
}  // namespace kolo::bench
