#include "engine/transfer_cost.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

namespace kolo::core {
namespace {

std::vector<Transfer> on_line(double latency, double per_byte,
                              const std::vector<std::size_t>& sizes) {
  std::vector<Transfer> transfers;
  for (const std::size_t bytes : sizes) {
    transfers.push_back(
        {.bytes = bytes, .seconds = latency + per_byte * static_cast<double>(bytes)});
  }
  return transfers;
}

double squared_relative_error(const TransferCost& cost, const std::vector<Transfer>& transfers) {
  double sum = 0;
  for (const Transfer& transfer : transfers) {
    const double expected = cost.latency * static_cast<double>(transfer.groups) +
                            cost.per_byte * static_cast<double>(transfer.bytes);
    sum += std::pow(expected / transfer.seconds - 1, 2);
  }
  return sum;
}

TEST(TransferCost, RecoversALine) {
  const TransferCost cost = fit_cost(on_line(50e-6, 2e-10, {4096, 1 << 20, 8 << 20, 8 << 20}));
  EXPECT_NEAR(cost.latency, 50e-6, 1e-9);
  EXPECT_NEAR(cost.per_byte, 2e-10, 1e-15);
}

TEST(TransferCost, RecoversALineFromSeveralGroupsTogether) {
  const std::vector<Transfer> transfers = {{.groups = 3, .bytes = 1 << 20, .seconds = 1.2},
                                           {.groups = 1, .bytes = 1 << 21, .seconds = 0.5}};
  const TransferCost cost = fit_cost(transfers);
  EXPECT_NEAR(3 * cost.latency + (1 << 20) * cost.per_byte, 1.2, 1e-9);
  EXPECT_NEAR(cost.of(1 << 21), 0.5, 1e-9);
}

TEST(TransferCost, HardlyMindsOneThatWasDisturbed) {
  std::vector<Transfer> transfers =
      on_line(50e-6, 2e-10, {4096, 65536, 1 << 20, 1 << 20, 4 << 20, 8 << 20, 8 << 20});
  transfers[4].seconds *= 50;
  const TransferCost cost = fit_cost(transfers);
  EXPECT_NEAR(cost.latency, 50e-6, 5e-6);
  EXPECT_NEAR(cost.per_byte, 2e-10, 0.4e-10);
}

TEST(TransferCost, WithoutTransfersIsTheDefault) {
  EXPECT_EQ(fit_cost({}).latency, TransferCost().latency);
  EXPECT_EQ(fit_cost({}).per_byte, TransferCost().per_byte);
  const std::vector<Transfer> took_no_time = {{.bytes = 4096, .seconds = 0}};
  EXPECT_EQ(fit_cost(took_no_time).latency, TransferCost().latency);
}

TEST(TransferCost, OfOneSizeHasTheDefaultLatency) {
  const TransferCost cost = fit_cost(on_line(70e-6, 1e-10, {1 << 20, 1 << 20, 1 << 20}));
  EXPECT_EQ(cost.latency, TransferCost().latency);
  EXPECT_NEAR(cost.of(1 << 20), 70e-6 + 1e-10 * (1 << 20), 1e-9);

  const TransferCost small = fit_cost(on_line(1e-6, 0, {4096}));
  EXPECT_EQ(small.per_byte, 0);
}

TEST(TransferCost, IsNeverNegative) {
  // The larger is faster for its size than a line through the origin.
  const TransferCost convex =
      fit_cost(std::vector<Transfer>{{1, 1 << 20, 40e-6}, {1, 8 << 20, 900e-6}});
  EXPECT_EQ(convex.latency, kLeastLatency);
  EXPECT_GT(convex.per_byte, 0);

  const TransferCost falling =
      fit_cost(std::vector<Transfer>{{1, 1 << 20, 900e-6}, {1, 8 << 20, 40e-6}});
  EXPECT_EQ(falling.per_byte, 0);
  EXPECT_GE(falling.latency, kLeastLatency);
}

TEST(TransferCost, NoLineNearbyIsNearer) {
  std::mt19937_64 random(7);
  std::uniform_real_distribution<double> uniform(0, 1);
  for (int round = 0; round < 200; ++round) {
    const auto count = 2 + random() % 20;
    std::vector<Transfer> transfers;
    for (std::size_t i = 0; i < count; ++i) {
      const std::size_t bytes = 1 + random() % (std::size_t{1} << 23);
      const std::size_t groups = 1 + random() % 4;
      const double exact =
          30e-6 * static_cast<double>(groups) + 1e-10 * static_cast<double>(bytes);
      transfers.push_back({groups, bytes, exact * (1 + 2 * uniform(random))});
    }
    const TransferCost best = fit_cost(transfers);
    const double error = squared_relative_error(best, transfers);
    for (const double a : {0.9, 0.999, 1.0, 1.001, 1.1}) {
      for (const double b : {0.9, 0.999, 1.0, 1.001, 1.1}) {
        const TransferCost other{.latency = std::max(kLeastLatency, a * best.latency),
                                 .per_byte = b * best.per_byte};
        EXPECT_LE(error, squared_relative_error(other, transfers) * (1 + 1e-9));
      }
    }
  }
}

}  // namespace
}  // namespace kolo::core
