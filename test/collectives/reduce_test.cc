#include "data/reduce.h"

#include <gtest/gtest.h>
#include <hwy/targets.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>
#include <string>
#include <tuple>
#include <vector>

#include "reduce_oracle.h"

namespace kolo::core {
namespace {

using oracle::Bytes;

std::int64_t count_of(DataType dtype, const Bytes& bytes) {
  return static_cast<std::int64_t>(bytes.size() / size_of(dtype));
}

Bytes run(const oracle::Reduction& r, const std::vector<Bytes>& inputs) {
  std::vector<const void*> addresses;
  for (const Bytes& input : inputs) addresses.push_back(input.data());
  Bytes result(inputs.front().size());
  void* const output = result.data();
  reduce(r.dtype, r.op, addresses, {&output, 1}, count_of(r.dtype, result), r.prescale,
         r.postscale);
  return result;
}

std::vector<Bytes> random_inputs(DataType dtype, std::size_t members, std::int64_t count) {
  std::vector<Bytes> inputs;
  for (std::size_t m = 0; m < members; ++m) {
    inputs.push_back(oracle::random_values(dtype, count, 1000 * m + 7));
  }
  return inputs;
}

/// Memory with a vector at some distance from its begin, and with something behind it.
Bytes surrounded(const Bytes& vector, std::size_t distance) {
  constexpr std::size_t kBehind = 64;
  Bytes memory(distance + vector.size() + kBehind, std::byte{0x55});
  std::copy(vector.begin(), vector.end(), memory.begin() + static_cast<std::ptrdiff_t>(distance));
  return memory;
}

/// Indices of vectors, of which the first `members` are the inputs.
std::vector<std::vector<std::size_t>> choices_of_outputs(std::size_t members) {
  std::vector<std::size_t> in_place(members);
  std::iota(in_place.begin(), in_place.end(), 0);
  const std::size_t last = members - 1;
  return {{members}, {members, members + 1}, {last}, {members, last}, in_place};
}

/// Vectors that are not outputs must stay as they are, and so must what surrounds the outputs.
void expect_written(const oracle::Reduction& r, const std::vector<Bytes>& inputs,
                    const Bytes& expected, const std::vector<std::size_t>& outputs,
                    std::size_t shift) {
  const auto distance = [&](std::size_t vector) { return (vector + 1) * shift * size_of(r.dtype); };
  std::vector<Bytes> vectors = inputs;
  vectors.resize(inputs.size() + 2, Bytes(expected.size()));
  std::vector<Bytes> memory;
  for (const Bytes& vector : vectors) {
    memory.push_back(surrounded(vector, distance(memory.size())));
  }
  std::vector<const void*> sources;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    sources.push_back(memory[i].data() + distance(i));
  }
  std::vector<void*> targets;
  for (const std::size_t i : outputs) {
    targets.push_back(memory[i].data() + distance(i));
    vectors[i] = expected;
  }
  reduce(r.dtype, r.op, sources, targets, count_of(r.dtype, expected), r.prescale, r.postscale);
  for (std::size_t i = 0; i < vectors.size(); ++i) {
    EXPECT_TRUE(oracle::same_values(r.dtype, memory[i], surrounded(vectors[i], distance(i))))
        << "vector " << i << " of " << outputs.size() << " outputs, shift " << shift;
  }
}

/// The last is one of Highway's targets, which are sets of vector instructions.
using Case = std::tuple<DataType, ReduceOp, std::int64_t>;

std::vector<Case> cases(bool floating_only) {
  const std::vector<std::int64_t> targets = hwy::SupportedAndGeneratedTargets();
  std::vector<Case> all;
  for (const std::int64_t target : targets) {
    for (int d = 0; d < kDataTypeCount; ++d) {
      for (int o = 0; o < kReduceOpCount; ++o) {
        const auto dtype = static_cast<DataType>(d);
        const auto op = static_cast<ReduceOp>(o);
        if (dtype == DataType::Bool && op == ReduceOp::Average) continue;
        const bool integers_too = !floating_only && target == targets.front();
        if (is_floating(dtype) || integers_too) all.emplace_back(dtype, op, target);
      }
    }
  }
  return all;
}

class ReduceTest : public ::testing::TestWithParam<Case> {
 protected:
  ReduceTest() { hwy::SetSupportedTargetsForTest(std::get<std::int64_t>(GetParam())); }
  ~ReduceTest() override { hwy::SetSupportedTargetsForTest(0); }

  oracle::Reduction reduction() const {
    return {.dtype = std::get<DataType>(GetParam()), .op = std::get<ReduceOp>(GetParam())};
  }
};

std::string name_of(const ::testing::TestParamInfo<Case>& test) {
  const auto& [dtype, op, target] = test.param;
  return std::string(to_string(dtype)) + "_" + std::string(to_string(op)) + "_" +
         hwy::TargetName(target);
}

INSTANTIATE_TEST_SUITE_P(All, ReduceTest, ::testing::ValuesIn(cases(false)), name_of);

class FloatReduceTest : public ReduceTest {};

INSTANTIATE_TEST_SUITE_P(All, FloatReduceTest, ::testing::ValuesIn(cases(true)), name_of);

TEST_P(ReduceTest, AgreesWithTheOracle) {
  const oracle::Reduction r = reduction();
  for (const std::int64_t count : {0, 1, 3, 15, 16, 17, 63, 64, 65, 1023, 4097}) {
    for (const std::size_t members : {1U, 2U, 3U, 4U, 5U}) {
      SCOPED_TRACE(std::to_string(count) + " elements, " + std::to_string(members) + " members");
      const std::vector<Bytes> inputs = random_inputs(r.dtype, members, count);
      const Bytes expected = oracle::reduce(r, inputs);
      for (const auto& outputs : choices_of_outputs(members)) {
        for (const std::size_t shift : {0U, 1U, 3U}) {
          expect_written(r, inputs, expected, outputs, shift);
        }
      }
    }
  }
}

TEST_P(ReduceTest, DoesNotDependOnCuts) {
  const oracle::Reduction r = reduction();
  const std::vector<Bytes> inputs = random_inputs(r.dtype, 3, 2051);
  const Bytes whole = run(r, inputs);
  for (const std::int64_t cut : {1, 2, 7, 64, 1000}) {
    Bytes pieces(whole.size());
    for (std::int64_t begin = 0; begin < 2051; begin += cut) {
      const std::size_t offset = static_cast<std::size_t>(begin) * size_of(r.dtype);
      std::vector<const void*> addresses;
      for (const Bytes& input : inputs) addresses.push_back(input.data() + offset);
      void* const output = pieces.data() + offset;
      reduce(r.dtype, r.op, addresses, {&output, 1}, std::min(cut, 2051 - begin), r.prescale,
             r.postscale);
    }
    EXPECT_EQ(pieces, whole) << cut;
  }
}

TEST_P(FloatReduceTest, Scales) {
  oracle::Reduction r = reduction();
  const std::vector<Bytes> inputs = random_inputs(r.dtype, 3, 1023);
  for (const double prescale : {1.0, 0.5, -0.3}) {
    for (const double postscale : {1.0, 4.0, 0.7}) {
      r.prescale = prescale;
      r.postscale = postscale;
      const Bytes output = run(r, inputs);
      EXPECT_TRUE(oracle::same_values(r.dtype, output, oracle::reduce(r, inputs)))
          << prescale << ", " << postscale;
    }
  }
}

// Whatever can be in memory: also subnormal numbers, infinities and NaNs.
TEST_P(FloatReduceTest, TakesAnyBits) {
  oracle::Reduction r = reduction();
  for (const std::size_t members : {1U, 2U, 3U}) {
    std::vector<Bytes> inputs;
    for (std::size_t m = 0; m < members; ++m) {
      inputs.push_back(oracle::random_bits(r.dtype, 10'000, m));
    }
    for (const double scale : {1.0, 0.1}) {
      r.prescale = scale;
      EXPECT_TRUE(oracle::same_values(r.dtype, run(r, inputs), oracle::reduce(r, inputs)))
          << members << " members, scaled by " << scale;
    }
  }
}

// Wherever the NaN comes from, also in a vector's last elements.
TEST_P(FloatReduceTest, NanWins) {
  const oracle::Reduction r = reduction();
  constexpr long double kNan = std::numeric_limits<long double>::quiet_NaN();
  for (std::size_t member = 0; member < 3; ++member) {
    std::vector<Bytes> inputs = random_inputs(r.dtype, 3, 37);
    inputs[member] = oracle::filled(r.dtype, 37, kNan);
    const Bytes output = run(r, inputs);
    for (std::size_t i = 0; i < 37; ++i) {
      EXPECT_TRUE(std::isnan(oracle::value_at(r.dtype, output, i))) << member << ", " << i;
    }
  }
}

TEST_P(FloatReduceTest, InfinityBehaves) {
  const oracle::Reduction r = reduction();
  constexpr long double kInfinity = std::numeric_limits<long double>::infinity();
  for (const long double other : {1.0L, kInfinity, -kInfinity}) {
    const std::vector<Bytes> inputs = {oracle::filled(r.dtype, 5, kInfinity),
                                       oracle::filled(r.dtype, 5, other)};
    const Bytes output = run(r, inputs);
    EXPECT_TRUE(oracle::same_values(r.dtype, output, oracle::reduce(r, inputs)));
  }
}

/// Each value of a 16-bit format, in an order that depends on the seed.
Bytes all_halves(std::uint32_t seed) {
  std::vector<std::uint16_t> patterns(0x10000);
  std::iota(patterns.begin(), patterns.end(), std::uint16_t{0});
  std::ranges::shuffle(patterns, std::mt19937(seed));
  Bytes bytes(patterns.size() * sizeof(std::uint16_t));
  std::memcpy(bytes.data(), patterns.data(), bytes.size());
  return bytes;
}

// Products have twice as many digits as fit, and lie from far below the smallest number to far
// above the largest.
TEST(Reduce, RoundsToNearestOnEveryTarget) {
  for (const DataType dtype : {DataType::Float16, DataType::BFloat16}) {
    const oracle::Reduction r = {.dtype = dtype, .op = ReduceOp::Product};
    for (std::uint32_t seed = 1; seed < 4; ++seed) {
      const std::vector<Bytes> inputs = {all_halves(seed), all_halves(seed + 100)};
      const Bytes expected = oracle::reduce(r, inputs);
      for (const std::int64_t target : hwy::SupportedAndGeneratedTargets()) {
        hwy::SetSupportedTargetsForTest(target);
        EXPECT_TRUE(oracle::same_values(dtype, run(r, inputs), expected))
            << hwy::TargetName(target);
      }
      hwy::SetSupportedTargetsForTest(0);
    }
  }
}

TEST(Reduce, RoundsHalvesOnce) {
  // 2048 + 1 + 1: each sum rounded by itself would stay at 2048.
  const std::vector<Bytes> inputs = {oracle::filled(DataType::Float16, 9, 2048),
                                     oracle::filled(DataType::Float16, 9, 1),
                                     oracle::filled(DataType::Float16, 9, 1)};
  const Bytes output = run({DataType::Float16, ReduceOp::Sum}, inputs);
  EXPECT_EQ(output, oracle::filled(DataType::Float16, 9, 2050));
}

TEST(Reduce, AveragesIntegersTowardsZero) {
  const std::vector<Bytes> inputs = {oracle::filled(DataType::Int32, 3, -3),
                                     oracle::filled(DataType::Int32, 3, -4)};
  const Bytes output = run({DataType::Int32, ReduceOp::Average}, inputs);
  EXPECT_EQ(output, oracle::filled(DataType::Int32, 3, -3));
}

TEST(Reduce, AverageOfSmallIntegersDoesNotWrap) {
  const std::vector<Bytes> inputs = {oracle::filled(DataType::UInt8, 3, 255),
                                     oracle::filled(DataType::UInt8, 3, 253)};
  const Bytes output = run({DataType::UInt8, ReduceOp::Average}, inputs);
  EXPECT_EQ(output, oracle::filled(DataType::UInt8, 3, 254));
}

TEST(Reduce, TakesAnyByteButZeroForTrue) {
  const std::vector<Bytes> inputs = {Bytes(3, std::byte{2}), Bytes(3, std::byte{1})};
  const Bytes output = run({DataType::Bool, ReduceOp::Product}, inputs);
  EXPECT_EQ(output, Bytes(3, std::byte{1}));
}

}  // namespace
}  // namespace kolo::core
