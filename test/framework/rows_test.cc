// Reduce-scatter and all-to-all of tensors, against what one process computes from all ranks'
// inputs.

#include <map>
#include <numeric>

#include "framework/support.h"

namespace kolo::testing {
namespace {

using Counts = std::vector<std::int64_t>;
using torch::indexing::Slice;

class RowsTest : public FrameworkTest {
 protected:
  void TearDown() override { expect_usable(); }
};

/// Small whole numbers, whose sums every dtype holds.
torch::Tensor whole_numbers(torch::IntArrayRef shape, torch::ScalarType dtype, int seed, int rank) {
  return (random(shape, {seed, rank}) * 2).round().abs().clamp(0, 5).to(dtype);
}

/// Where a member's slice begins, found by dealing out one row after the other.
std::int64_t slice_begin(std::int64_t rows, std::size_t members, std::size_t member) {
  Counts slices(members, 0);
  for (std::int64_t row = 0; row < rows; ++row) ++slices[static_cast<std::size_t>(row) % members];
  return std::accumulate(slices.begin(), slices.begin() + static_cast<std::ptrdiff_t>(member),
                         std::int64_t{0});
}

torch::Tensor slice_of(const torch::Tensor& tensor, std::size_t members, std::size_t member) {
  const std::int64_t rows = tensor.size(0);
  return tensor.index(
      {Slice(slice_begin(rows, members, member), slice_begin(rows, members, member + 1))});
}

torch::Tensor sum_of(torch::IntArrayRef shape, torch::ScalarType dtype, int seed,
                     const std::vector<int>& ranks) {
  torch::Tensor sum = torch::zeros(shape, there(torch::kFloat64));
  for (const int rank : ranks) {
    sum = sum + whole_numbers(shape, dtype, seed, rank).to(torch::kFloat64);
  }
  return sum.to(dtype);
}

TEST_F(RowsTest, ReducescatterOfEveryDtypeAndSize) {
  const auto own = static_cast<std::size_t>(kolo::rank());
  for (const torch::ScalarType dtype : kDtypes) {
    if (!can_be_reduced(dtype)) continue;
    for (const std::int64_t rows : {0, 1, 3, 8, 1023}) {
      SCOPED_TRACE(::testing::Message() << dtype << ", " << rows << " rows");
      const Counts shape = {rows, 2, 3};
      const torch::Tensor input = whole_numbers(shape, dtype, 1, kolo::rank());
      const torch::Tensor before = input.clone();
      Work work = kolo::reducescatter_async(input, {.op = ReduceOp::Sum});
      const torch::Tensor result = kolo::reducescatter(input, {.op = ReduceOp::Sum});
      const torch::Tensor expected =
          slice_of(sum_of(shape, dtype, 1, all_ranks()), all_ranks().size(), own);
      EXPECT_TRUE(identical(result, expected));
      EXPECT_TRUE(identical(work.result(), expected));
      EXPECT_TRUE(work.received_splits().empty());
      EXPECT_TRUE(identical(input, before));
    }
  }
}

TEST_F(RowsTest, ReducescatterGivesTheBitsOfAnAllreduce) {
  const auto own = static_cast<std::size_t>(kolo::rank());
  for (const torch::ScalarType dtype : {torch::kFloat16, torch::kBFloat16, torch::kFloat32}) {
    for (const std::int64_t rows : {5, 700, 100'003}) {
      for (const ReduceOp op : {ReduceOp::Sum, ReduceOp::Average, ReduceOp::Product}) {
        const torch::Tensor input = random({rows, 2}, {7, kolo::rank()}, dtype);
        const double prescale = op == ReduceOp::Average ? 0.3 : 1;
        const torch::Tensor all = kolo::allreduce(input, {.op = op, .prescale = prescale});
        const torch::Tensor part = kolo::reducescatter(input, {.op = op, .prescale = prescale});
        const torch::Tensor expected = slice_of(all, all_ranks().size(), own);
        if (device().is_cpu()) {
          EXPECT_TRUE(identical(part, expected));
        }
        EXPECT_LE(relative_difference(part, expected), dtype == torch::kFloat32 ? 1e-6 : 2e-2);
      }
    }
  }
}

TEST_F(RowsTest, ReducescatterOfAverageScaledAndLarge) {
  const Counts shape = {1 << 20};
  const torch::Tensor input = whole_numbers(shape, torch::kFloat32, 2, kolo::rank());
  const torch::Tensor result =
      kolo::reducescatter(input, {.name = "large", .prescale = 0.5, .postscale = 3});
  const torch::Tensor mean = sum_of(shape, torch::kFloat64, 2, all_ranks()) / kolo::size() * 1.5;
  const torch::Tensor expected =
      slice_of(mean, all_ranks().size(), static_cast<std::size_t>(kolo::rank()));
  ASSERT_EQ(result.sizes(), expected.sizes());
  EXPECT_LE(relative_difference(result, expected), 1e-6);
}

/// Rows that one rank gives to another.
std::int64_t split(int giver, int taker, bool equal) {
  return equal ? 3 : (2 * giver + 3 * taker) % 4;
}

Counts splits_of(int giver, const std::vector<int>& ranks, bool equal) {
  Counts splits;
  for (const int taker : ranks) splits.push_back(split(giver, taker, equal));
  return splits;
}

torch::Tensor given_by(int giver, const std::vector<int>& ranks, torch::ScalarType dtype,
                       bool equal) {
  const Counts splits = splits_of(giver, ranks, equal);
  const std::int64_t rows = std::accumulate(splits.begin(), splits.end(), std::int64_t{0});
  return whole_numbers({rows, 2, 3}, dtype, 3, giver);
}

/// Also checks how many came from each.
void expect_exchanged(Work& work, const std::vector<int>& ranks, torch::ScalarType dtype,
                      bool equal) {
  std::vector<torch::Tensor> parts;
  Counts received;
  for (const int giver : ranks) {
    std::int64_t begin = 0;
    for (const int taker : ranks) {
      const std::int64_t rows = split(giver, taker, equal);
      if (taker == kolo::rank()) {
        received.push_back(rows);
        parts.push_back(given_by(giver, ranks, dtype, equal).index({Slice(begin, begin + rows)}));
      }
      begin += rows;
    }
  }
  EXPECT_TRUE(identical(work.result(), torch::cat(parts)));
  EXPECT_EQ(work.received_splits(), received);
}

TEST_F(RowsTest, AlltoallOfEveryDtypeAndOfUnequalParts) {
  for (const torch::ScalarType dtype : kDtypes) {
    for (const bool equal : {false, true}) {
      const torch::Tensor input = given_by(kolo::rank(), all_ranks(), dtype, equal);
      AlltoallOptions options;
      if (!equal) options.splits = splits_of(kolo::rank(), all_ranks(), equal);
      Work work = kolo::alltoall_async(input, options);
      const torch::Tensor result = kolo::alltoall(input, options);
      expect_exchanged(work, all_ranks(), dtype, equal);
      EXPECT_TRUE(identical(result, work.result()));
    }
  }
}

// Of the other kinds OpsTest has as many.
TEST_F(RowsTest, AMebiOfEveryDtype) {
  constexpr std::int64_t kMebi = 1 << 20;
  const auto own = static_cast<std::size_t>(kolo::rank());
  const std::size_t ranks = all_ranks().size();
  for (const torch::ScalarType dtype : kDtypes) {
    SCOPED_TRACE(::testing::Message() << dtype);
    std::vector<torch::Tensor> inputs;
    std::vector<torch::Tensor> taken;
    Counts splits;
    for (const int rank : all_ranks()) {
      inputs.push_back(whole_numbers({kMebi}, dtype, 6, rank));
      taken.push_back(slice_of(inputs.back(), ranks, own));
      splits.push_back(slice_of(inputs.back(), ranks, static_cast<std::size_t>(rank)).size(0));
    }
    EXPECT_TRUE(identical(kolo::allgather(inputs[own]), torch::cat(inputs)));
    EXPECT_TRUE(identical(kolo::alltoall(inputs[own], {.splits = splits}), torch::cat(taken)));
    if (!can_be_reduced(dtype)) continue;
    const torch::Tensor sum = sum_of({kMebi}, dtype, 6, all_ranks());
    EXPECT_TRUE(identical(kolo::reducescatter(inputs[own], {.op = ReduceOp::Sum}),
                          slice_of(sum, ranks, own)));
  }
}

TEST_F(RowsTest, AlltoallOfNothingAndOfMuch) {
  const torch::Tensor nothing = kolo::alltoall(torch::empty({0, 4}, there()));
  EXPECT_EQ(nothing.sizes(), torch::IntArrayRef({0, 4}));
  const torch::Tensor thin = kolo::alltoall(torch::empty({2 * kolo::size(), 0}, there()));
  EXPECT_EQ(thin.sizes(), torch::IntArrayRef({2 * kolo::size(), 0}));

  constexpr std::int64_t kRows = 1 << 18;
  const torch::Tensor numbers = torch::arange(kRows * kolo::size(), there(torch::kInt64));
  const torch::Tensor result = kolo::alltoall(numbers * kolo::size() + kolo::rank());
  for (int giver = 0; giver < kolo::size(); ++giver) {
    const torch::Tensor rows = torch::arange(kRows, there(torch::kInt64)) + kRows * kolo::rank();
    EXPECT_TRUE(identical(result.index({Slice(giver * kRows, (giver + 1) * kRows)}),
                          rows * kolo::size() + giver));
  }
}

TEST_F(RowsTest, TensorsThatAreNotContiguous) {
  const auto own = static_cast<std::size_t>(kolo::rank());
  const torch::Tensor dense = whole_numbers({8, 6}, torch::kFloat64, 4, kolo::rank());
  const torch::Tensor transposed = dense.t().contiguous().t();
  ASSERT_FALSE(transposed.is_contiguous());
  const torch::Tensor sum = sum_of({8, 6}, torch::kFloat64, 4, all_ranks());
  EXPECT_TRUE(identical(kolo::reducescatter(transposed, {.op = ReduceOp::Sum}),
                        slice_of(sum, all_ranks().size(), own)));
  Counts splits(all_ranks().size(), 0);
  splits.back() = 8;
  EXPECT_TRUE(identical(kolo::alltoall(transposed, {.splits = splits}),
                        kolo::alltoall(dense, {.splits = splits})));
  EXPECT_TRUE(identical(transposed, dense));
}

TEST_F(RowsTest, ProcessSets) {
  if (kolo::size() == 1) return;
  std::vector<int> ranks = all_ranks();
  ranks.erase(ranks.begin());
  const ProcessSet others = kolo::add_process_set(ranks);
  if (kolo::rank() == 0) return;
  const auto member = static_cast<std::size_t>(kolo::rank() - 1);
  const torch::Tensor input = whole_numbers({7, 2}, torch::kFloat32, 5, kolo::rank());
  EXPECT_TRUE(identical(kolo::reducescatter(input, {.op = ReduceOp::Sum, .process_set = others}),
                        slice_of(sum_of({7, 2}, torch::kFloat32, 5, ranks), ranks.size(), member)));
  AlltoallOptions options{.splits = splits_of(kolo::rank(), ranks, /*equal=*/false),
                          .process_set = others};
  Work work =
      kolo::alltoall_async(given_by(kolo::rank(), ranks, torch::kInt32, /*equal=*/false), options);
  expect_exchanged(work, ranks, torch::kInt32, /*equal=*/false);
}

TEST_F(RowsTest, WithOthersInAnotherOrderOnEachRank) {
  std::map<int, Work> works;
  for (int i = 0; i < 8; ++i) {
    const int number = (i * 3 + kolo::rank() * 5) % 8;
    const std::string name = "t" + std::to_string(number);
    const torch::Tensor tensor = torch::full({kolo::size(), 1 + number}, kolo::rank(), there());
    works.emplace(number, number % 4 == 0   ? kolo::alltoall_async(tensor, {.name = name})
                          : number % 4 == 1 ? kolo::reducescatter_async(tensor, {.name = name})
                          : number % 4 == 2 ? kolo::allreduce_async(tensor, {.name = name})
                                            : kolo::allgather_async(tensor, {.name = name}));
  }
  const double mean = last_rank() / 2.0;
  for (auto& [number, work] : works) {
    const torch::Tensor result = work.result();
    EXPECT_EQ(result.mean().item<double>(), mean);
    EXPECT_EQ(result.size(0), number % 4 == 1   ? 1
                              : number % 4 == 3 ? kolo::size() * kolo::size()
                                                : kolo::size());
  }
}

// ---- errors ----

/// On all ranks, `call` fails when the last rank is told to deviate.
void expect_failure(const std::function<void(bool deviates)>& call,
                    const std::vector<std::string>& parts) {
  expect_error([&] { call(kolo::rank() == last_rank()); }, parts);
  expect_usable();
}

std::string deviating_rank() { return "rank " + std::to_string(last_rank()); }

TEST_F(RowsTest, WhatRanksDisagreeAboutIsNamed) {
  if (kolo::size() == 1) return;
  const std::int64_t rows = 2 * kolo::size();
  const std::string n = std::to_string(rows);
  expect_failure(
      [&](bool deviates) {
        kolo::reducescatter(torch::ones({deviates ? 1 : rows, 3}, there()), {.name = "x"});
      },
      {"reducescatter 'x': shape differs", "has [" + n + ", 3]", deviating_rank() + " has [1, 3]"});
  expect_failure(
      [&](bool deviates) {
        kolo::reducescatter(torch::ones({rows}, there()),
                            {.name = "x", .op = deviates ? ReduceOp::Max : ReduceOp::Sum});
      },
      {"reducescatter 'x': reduce op differs", "has Sum", deviating_rank() + " has Max"});
  expect_failure(
      [&](bool deviates) {
        kolo::alltoall(torch::ones({rows, deviates ? 2 : 3}, there()), {.name = "x"});
      },
      {"alltoall 'x': shape differs", "has [" + n + ", 3]",
       deviating_rank() + " has [" + n + ", 2]"});
  expect_failure(
      [&](bool deviates) {
        kolo::alltoall(torch::ones({rows}, there(deviates ? torch::kInt8 : torch::kInt32)),
                       {.name = "x"});
      },
      {"alltoall 'x': dtype differs", "has int32", deviating_rank() + " has int8"});
  expect_failure(
      [&](bool deviates) {
        const torch::Tensor tensor = torch::ones({rows}, there());
        if (deviates) kolo::alltoall(tensor, {.name = "x"});
        if (!deviates) kolo::allgather(tensor, {.name = "x"});
      },
      {"'x': operation differs", "has allgather", deviating_rank() + " has alltoall"});
}

TEST_F(RowsTest, WhatIsWrongByItselfIsRefusedOnAllRanks) {
  const std::int64_t size = kolo::size();
  const auto alltoall = [&](const torch::Tensor& wrong, const Counts& splits) {
    return [=](bool deviates) {
      const torch::Tensor right = torch::ones({2 * size}, there());
      kolo::alltoall(deviates ? wrong : right,
                     {.name = "x", .splits = deviates ? splits : Counts()});
    };
  };
  const auto reducescatter = [&](const torch::Tensor& wrong) {
    return [=](bool deviates) {
      const torch::Tensor right = torch::ones({size}, there());
      kolo::reducescatter(deviates ? wrong : right, {.name = "x"});
    };
  };
  const torch::Tensor three = torch::ones({3}, there());
  const std::vector<std::string> words = {"'x'", deviating_rank()};
  const auto and_words = [&](const std::string& more) {
    std::vector<std::string> all = words;
    all.push_back(more);
    return all;
  };
  expect_failure(alltoall(three, Counts(static_cast<std::size_t>(size + 1), 1)),
                 and_words("but the process set has " + std::to_string(size) + " ranks"));
  Counts splits(static_cast<std::size_t>(size), 1);
  splits.front() = 4;
  expect_failure(alltoall(three, splits), and_words("do not add up to the first dimension 3"));
  splits.front() = -1;
  expect_failure(alltoall(three, splits), and_words("has a negative number"));
  if (3 % size != 0) {
    expect_failure(alltoall(three, {}), and_words("its first dimension 3 cannot be divided by " +
                                                  std::to_string(size) + " ranks: give splits"));
  }
  const torch::Tensor scalar = torch::tensor(1.0, there());
  expect_failure(alltoall(scalar, {}), and_words("an all-to-all needs at least one dimension"));
  expect_failure(reducescatter(scalar), and_words("a reduce-scatter needs at least one dimension"));
  expect_failure(reducescatter(torch::Tensor()), and_words("the tensor is undefined"));
  const torch::Tensor bools = torch::ones({size}, there(torch::kBool));
  expect_failure(reducescatter(bools), and_words("a bool tensor has no average"));
}

}  // namespace
}  // namespace kolo::testing
