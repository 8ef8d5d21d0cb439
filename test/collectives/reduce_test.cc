#include "data/reduce.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
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

/// To the output, which may be one of the inputs.
void run(const oracle::Reduction& r, const std::vector<Bytes>& inputs, Bytes& output) {
  std::vector<const void*> addresses;
  for (const Bytes& input : inputs) addresses.push_back(input.data());
  const std::array<void*, 1> outputs = {output.data()};
  reduce(r.dtype, r.op, addresses, outputs, count_of(r.dtype, output), r.prescale, r.postscale);
}

std::vector<Bytes> random_inputs(DataType dtype, std::size_t members, std::int64_t count) {
  std::vector<Bytes> inputs;
  for (std::size_t m = 0; m < members; ++m) {
    inputs.push_back(oracle::random_values(dtype, count, 1000 * m + 7));
  }
  return inputs;
}

using Case = std::tuple<DataType, ReduceOp>;

std::vector<Case> cases(bool floating_only) {
  std::vector<Case> all;
  for (int d = 0; d < kDataTypeCount; ++d) {
    for (int o = 0; o < kReduceOpCount; ++o) {
      const auto dtype = static_cast<DataType>(d);
      const auto op = static_cast<ReduceOp>(o);
      if (dtype == DataType::Bool && op == ReduceOp::Average) continue;
      if (is_floating(dtype) || !floating_only) all.emplace_back(dtype, op);
    }
  }
  return all;
}

class ReduceTest : public ::testing::TestWithParam<Case> {
 protected:
  oracle::Reduction reduction() const {
    oracle::Reduction r;
    std::tie(r.dtype, r.op) = GetParam();
    return r;
  }
};

std::string name_of(const ::testing::TestParamInfo<Case>& test) {
  const auto& [dtype, op] = test.param;
  return std::string(to_string(dtype)) + "_" + std::string(to_string(op));
}

INSTANTIATE_TEST_SUITE_P(All, ReduceTest, ::testing::ValuesIn(cases(false)), name_of);

class FloatReduceTest : public ReduceTest {};

INSTANTIATE_TEST_SUITE_P(All, FloatReduceTest, ::testing::ValuesIn(cases(true)), name_of);

TEST_P(ReduceTest, AgreesWithTheOracle) {
  const oracle::Reduction r = reduction();
  for (const std::int64_t count : {0, 1, 3, 1023, 1024, 2051}) {
    for (const std::size_t members : {1U, 2U, 3U, 4U}) {
      const std::vector<Bytes> inputs = random_inputs(r.dtype, members, count);
      Bytes output(inputs.front().size());
      run(r, inputs, output);
      EXPECT_TRUE(oracle::same_values(r.dtype, output, oracle::reduce(r, inputs)))
          << count << " elements, " << members << " members";
    }
  }
}

TEST_P(ReduceTest, WritesOverAnyInput) {
  const oracle::Reduction r = reduction();
  for (std::size_t target = 0; target < 4; ++target) {
    std::vector<Bytes> inputs = random_inputs(r.dtype, 4, 2051);
    const Bytes expected = oracle::reduce(r, inputs);
    run(r, inputs, inputs[target]);
    EXPECT_TRUE(oracle::same_values(r.dtype, inputs[target], expected)) << target;
  }
}

TEST_P(ReduceTest, DoesNotDependOnCuts) {
  const oracle::Reduction r = reduction();
  const std::vector<Bytes> inputs = random_inputs(r.dtype, 3, 2051);
  Bytes whole(inputs.front().size());
  run(r, inputs, whole);
  for (const std::int64_t cut : {1, 2, 7, 64, 1000}) {
    Bytes pieces(whole.size());
    for (std::int64_t begin = 0; begin < 2051; begin += cut) {
      const std::size_t offset = static_cast<std::size_t>(begin) * size_of(r.dtype);
      std::vector<const void*> addresses;
      for (const Bytes& input : inputs) addresses.push_back(input.data() + offset);
      const std::array<void*, 1> outputs = {pieces.data() + offset};
      reduce(r.dtype, r.op, addresses, outputs, std::min(cut, 2051 - begin), r.prescale,
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
      Bytes output(inputs.front().size());
      run(r, inputs, output);
      EXPECT_TRUE(oracle::same_values(r.dtype, output, oracle::reduce(r, inputs)))
          << prescale << ", " << postscale;
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
    Bytes output(inputs.front().size());
    run(r, inputs, output);
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
    Bytes output(inputs.front().size());
    run(r, inputs, output);
    EXPECT_TRUE(oracle::same_values(r.dtype, output, oracle::reduce(r, inputs)));
  }
}

TEST(Reduce, RoundsHalvesOnce) {
  // 2048 + 1 + 1: each sum rounded by itself would stay at 2048.
  const std::vector<Bytes> inputs = {oracle::filled(DataType::Float16, 9, 2048),
                                     oracle::filled(DataType::Float16, 9, 1),
                                     oracle::filled(DataType::Float16, 9, 1)};
  Bytes output(inputs.front().size());
  run({DataType::Float16, ReduceOp::Sum}, inputs, output);
  EXPECT_EQ(output, oracle::filled(DataType::Float16, 9, 2050));
}

TEST(Reduce, AveragesIntegersTowardsZero) {
  const std::vector<Bytes> inputs = {oracle::filled(DataType::Int32, 3, -3),
                                     oracle::filled(DataType::Int32, 3, -4)};
  Bytes output(inputs.front().size());
  run({DataType::Int32, ReduceOp::Average}, inputs, output);
  EXPECT_EQ(output, oracle::filled(DataType::Int32, 3, -3));
}

TEST(Reduce, AverageOfSmallIntegersDoesNotWrap) {
  const std::vector<Bytes> inputs = {oracle::filled(DataType::UInt8, 3, 255),
                                     oracle::filled(DataType::UInt8, 3, 253)};
  Bytes output(inputs.front().size());
  run({DataType::UInt8, ReduceOp::Average}, inputs, output);
  EXPECT_EQ(output, oracle::filled(DataType::UInt8, 3, 254));
}

TEST(Reduce, TakesAnyByteButZeroForTrue) {
  const std::vector<Bytes> inputs = {Bytes(3, std::byte{2}), Bytes(3, std::byte{1})};
  Bytes output(3);
  run({DataType::Bool, ReduceOp::Product}, inputs, output);
  EXPECT_EQ(output, Bytes(3, std::byte{1}));
}

}  // namespace
}  // namespace kolo::core
