// Collectives on tensors, against what one process computes from all ranks' inputs.

#include <algorithm>
#include <numeric>
#include <thread>

#include "framework/support.h"

namespace kolo::testing {
namespace {

class OpsTest : public FrameworkTest {};

constexpr ReduceOp kOps[] = {ReduceOp::Sum, ReduceOp::Average, ReduceOp::Min, ReduceOp::Max,
                             ReduceOp::Product};
constexpr std::int64_t kSizes[] = {0, 1, 3, 1023};

/// Small numbers, so that integers do not overflow.
torch::Tensor values(torch::IntArrayRef shape, torch::ScalarType dtype, int seed, int rank) {
  torch::Tensor numbers = random(shape, {seed, rank});
  if (dtype == torch::kBool) return numbers > 0;
  if (torch::isFloatingType(dtype)) return numbers.to(dtype);
  numbers = (numbers * 1.5).clamp(-3, 3);
  return (dtype == torch::kUInt8 ? numbers.abs() : numbers).to(dtype);
}

torch::Tensor own_values(torch::IntArrayRef shape, torch::ScalarType dtype, int seed) {
  return values(shape, dtype, seed, kolo::rank());
}

torch::Tensor reduced(torch::IntArrayRef shape, torch::ScalarType dtype, int seed, ReduceOp op,
                      const std::vector<int>& ranks) {
  const bool floating = torch::isFloatingType(dtype);
  std::vector<torch::Tensor> inputs;
  for (const int rank : ranks) {
    const torch::Tensor one = values(shape, dtype, seed, rank);
    inputs.push_back(one.to(floating ? torch::kFloat64 : torch::kInt64));
  }
  torch::Tensor result = inputs.front();
  for (std::size_t i = 1; i < inputs.size(); ++i) {
    switch (op) {
      case ReduceOp::Sum:
      case ReduceOp::Average:
        result = result + inputs[i];
        break;
      case ReduceOp::Min:
        result = torch::min(result, inputs[i]);
        break;
      case ReduceOp::Max:
        result = torch::max(result, inputs[i]);
        break;
      case ReduceOp::Product:
        result = result * inputs[i];
        break;
    }
  }
  if (op != ReduceOp::Average) return result.to(dtype);
  const auto size = static_cast<std::int64_t>(inputs.size());
  return (floating ? result / size : torch::div(result, size, "trunc")).to(dtype);
}

double tolerance(torch::ScalarType dtype) {
  if (dtype == torch::kFloat16) return 2e-3;
  if (dtype == torch::kBFloat16) return 2e-2;
  if (dtype == torch::kFloat32) return 1e-6;
  if (dtype == torch::kFloat64) return 1e-14;
  return 0;
}

void expect_values(const torch::Tensor& actual, const torch::Tensor& expected) {
  ASSERT_TRUE(actual.defined());
  EXPECT_EQ(actual.sizes(), expected.sizes());
  EXPECT_EQ(actual.device(), expected.device());
  ASSERT_EQ(actual.scalar_type(), expected.scalar_type());
  EXPECT_LE(relative_difference(actual, expected), tolerance(expected.scalar_type()));
}

/// An all-reduce in the form that its turn brings; all are waited for together.
class Reductions {
 public:
  void add(const torch::Tensor& input, const torch::Tensor& expected,
           const AllreduceOptions& options) {
    torch::Tensor tensor = input.clone();
    const std::size_t form = pending_.size() % 4;
    if (form == 0) {
      pending_.push_back({std::nullopt, kolo::allreduce(tensor, options), expected});
      EXPECT_TRUE(identical(tensor, input)) << "the input has changed";
    } else if (form == 1) {
      EXPECT_EQ(&kolo::allreduce_(tensor, options), &tensor);
      pending_.push_back({std::nullopt, tensor, expected});
    } else if (form == 2) {
      pending_.push_back({kolo::allreduce_async(tensor, options), {}, expected});
    } else {
      pending_.push_back({kolo::allreduce_async_(tensor, options), tensor, expected});
    }
  }

  void check() {
    for (Pending& one : pending_) {
      if (one.work) {
        const torch::Tensor result = one.work->result();
        if (one.output.defined()) {
          EXPECT_TRUE(result.is_same(one.output));
        }
        one.output = result;
        one.work->synchronize();
        EXPECT_TRUE(one.work->done());
      }
      expect_values(one.output, one.expected);
    }
  }

 private:
  struct Pending {
    std::optional<Work> work;
    torch::Tensor output;
    torch::Tensor expected;
  };
  std::vector<Pending> pending_;
};

TEST_F(OpsTest, AllreduceOfEveryDtypeOpAndSize) {
  for (const torch::ScalarType dtype : kDtypes) {
    Reductions reductions;
    for (const ReduceOp op : kOps) {
      if (dtype == torch::kBool && op == ReduceOp::Average) continue;
      if (!can_be_reduced(dtype)) continue;
      for (const std::int64_t size : kSizes) {
        SCOPED_TRACE(::testing::Message()
                     << dtype << " op " << static_cast<int>(op) << " " << size);
        torch::Tensor expected = reduced({size}, dtype, 1, op, all_ranks());
        reductions.add(own_values({size}, dtype, 1), expected, {.op = op});
      }
    }
    reductions.check();
  }
}

TEST_F(OpsTest, AllreduceOfAMebiOfNumbers) {
  Reductions reductions;
  for (int i = 0; i < 4; ++i) {
    reductions.add(own_values({1 << 20}, torch::kFloat32, i),
                   reduced({1 << 20}, torch::kFloat32, i, ReduceOp::Average, all_ranks()), {});
  }
  reductions.check();
}

TEST_F(OpsTest, AllRanksGetTheSameBits) {
  for (const torch::ScalarType dtype : {torch::kFloat16, torch::kFloat32, torch::kFloat64}) {
    for (const std::int64_t size : {7, 5000, 300000}) {
      const torch::Tensor input = own_values({size}, dtype, 2);
      const torch::Tensor first = kolo::allreduce(input);
      EXPECT_TRUE(identical_on_all_ranks(first));
      EXPECT_TRUE(identical(first, kolo::allreduce(input)));
    }
  }
}

TEST_F(OpsTest, BroadcastOfEveryDtypeSizeAndRoot) {
  for (const torch::ScalarType dtype : kDtypes) {
    for (const std::int64_t size : kSizes) {
      const int root = static_cast<int>(size + static_cast<int>(dtype)) % kolo::size();
      const torch::Tensor expected = values({size}, dtype, 3, root);
      const torch::Tensor input = own_values({size}, dtype, 3);
      torch::Tensor in_place = input.clone();
      torch::Tensor later = input.clone();
      Work work = kolo::broadcast_async_(later, root);
      Work copied = kolo::broadcast_async(input, root);
      EXPECT_TRUE(identical(kolo::broadcast(input, root), expected));
      EXPECT_EQ(&kolo::broadcast_(in_place, root), &in_place);
      EXPECT_TRUE(identical(in_place, expected));
      EXPECT_TRUE(identical(copied.result(), expected));
      EXPECT_TRUE(work.result().is_same(later));
      EXPECT_TRUE(identical(later, expected));
      EXPECT_TRUE(identical(input, own_values({size}, dtype, 3)));
    }
  }
}

TEST_F(OpsTest, AllgatherOfEveryDtypeAndOfUnequalRows) {
  for (const torch::ScalarType dtype : kDtypes) {
    for (const bool unequal : {false, true}) {
      const auto rows_of = [&](int rank) { return unequal ? (rank * 2) % 5 : 3; };
      std::vector<torch::Tensor> parts;
      for (const int rank : all_ranks()) {
        parts.push_back(values({rows_of(rank), 2, 3}, dtype, 4, rank));
      }
      const torch::Tensor input = parts[static_cast<std::size_t>(kolo::rank())];
      Work work = kolo::allgather_async(input);
      EXPECT_TRUE(identical(kolo::allgather(input), torch::cat(parts)));
      EXPECT_TRUE(identical(work.result(), torch::cat(parts)));
    }
  }
}

TEST_F(OpsTest, AllgatherOfNothing) {
  for (const auto& shape : {std::vector<std::int64_t>{0}, std::vector<std::int64_t>{2, 0}}) {
    const torch::Tensor all = kolo::allgather(torch::empty(shape, there()));
    EXPECT_EQ(all.numel(), 0);
    EXPECT_EQ(all.size(0), shape[0] * kolo::size());
    EXPECT_EQ(all.clone().numel(), 0);
  }
}

TEST_F(OpsTest, TensorsWithoutDimensions) {
  const auto own = torch::tensor(kolo::rank() + 1.0, there());
  const auto sum = kolo::allreduce(own, {.op = ReduceOp::Sum});
  EXPECT_EQ(sum.dim(), 0);
  EXPECT_EQ(sum.item<double>(), kolo::size() * (kolo::size() + 1) / 2);
  EXPECT_EQ(kolo::broadcast(own, 0).item<double>(), 1);
  const auto all = kolo::allgather(own);
  EXPECT_EQ(all.sizes(), torch::IntArrayRef({kolo::size()}));
  EXPECT_EQ(all[kolo::size() - 1].item<double>(), kolo::size());
}

/// The same numbers, laid out in memory in ways of their own, with elements around that are not
/// ours.
std::vector<torch::Tensor> layouts(const torch::Tensor& dense) {
  std::vector<torch::Tensor> all;
  torch::Tensor transposed =
      torch::full({5, 4, 3, 2}, 77, there(torch::kFloat64)).permute({3, 2, 1, 0});
  torch::Tensor sliced = torch::full({4, 9, 8, 10}, 77, there(torch::kFloat64));
  all.push_back(transposed);
  all.push_back(torch::empty({2, 3, 4, 5}, there(torch::kFloat64))
                    .contiguous(torch::MemoryFormat::ChannelsLast));
  using torch::indexing::Slice;
  all.push_back(sliced.index({Slice(1, 4, 2), Slice(0, 9, 3), Slice(0, 8, 2), Slice(5, 10)}));
  for (torch::Tensor& tensor : all) tensor.copy_(dense);
  return all;
}

TEST_F(OpsTest, TensorsThatAreNotContiguous) {
  const std::vector<std::int64_t> shape = {2, 3, 4, 5};
  const torch::Tensor own = own_values(shape, torch::kFloat64, 5);
  const torch::Tensor mean = reduced(shape, torch::kFloat64, 5, ReduceOp::Average, all_ranks());
  const torch::Tensor last = values(shape, torch::kFloat64, 5, kolo::size() - 1);
  std::vector<torch::Tensor> parts;
  for (const int rank : all_ranks()) parts.push_back(values(shape, torch::kFloat64, 5, rank));

  for (torch::Tensor& tensor : layouts(own)) {
    ASSERT_FALSE(tensor.is_contiguous());
    expect_values(kolo::allreduce(tensor), mean);
    EXPECT_TRUE(identical(kolo::broadcast(tensor, kolo::size() - 1), last));
    EXPECT_TRUE(identical(kolo::allgather(tensor), torch::cat(parts)));
    EXPECT_TRUE(identical(tensor, own));
  }
  for (torch::Tensor& tensor : layouts(own)) {
    const std::vector<std::int64_t> strides = tensor.strides().vec();
    EXPECT_TRUE(kolo::allreduce_async_(tensor).result().is_same(tensor));
    expect_values(tensor, mean);
    EXPECT_EQ(tensor.strides(), torch::IntArrayRef(strides));
  }
  for (torch::Tensor& tensor : layouts(own)) {
    kolo::broadcast_(tensor, kolo::size() - 1);
    EXPECT_TRUE(identical(tensor, last));
  }
}

TEST_F(OpsTest, SlicesLeaveTheRestAlone) {
  torch::Tensor whole = torch::full({6, 6}, 5.0, there());
  torch::Tensor column = whole.select(1, 2);
  column.fill_(kolo::rank() + 1);
  kolo::allreduce_(column, {.op = ReduceOp::Max});
  EXPECT_EQ(whole.select(1, 2).max().item<float>(), static_cast<float>(kolo::size()));
  EXPECT_EQ(whole.sum().item<float>(), static_cast<float>(30 * 5 + 6 * kolo::size()));
}

TEST_F(OpsTest, ExpandedInput) {
  const torch::Tensor row = own_values({1, 5}, torch::kFloat64, 6);
  expect_values(kolo::allreduce(row.expand({4, 5})),
                reduced({1, 5}, torch::kFloat64, 6, ReduceOp::Average, all_ranks()).expand({4, 5}));
}

TEST_F(OpsTest, TensorsThatRequireGrad) {
  torch::Tensor leaf = own_values({3}, torch::kFloat64, 7).requires_grad_();
  const torch::Tensor mean = reduced({3}, torch::kFloat64, 7, ReduceOp::Average, all_ranks());
  EXPECT_FALSE(kolo::allreduce(leaf).requires_grad());
  EXPECT_FALSE(kolo::broadcast(leaf, 0).requires_grad());
  EXPECT_FALSE(kolo::allgather(leaf).requires_grad());
  expect_values(kolo::allreduce(leaf * 2), mean * 2);
  kolo::allreduce_(leaf);
  expect_values(leaf, mean);
  EXPECT_TRUE(leaf.requires_grad() && leaf.is_leaf());
}

TEST_F(OpsTest, Scales) {
  const std::vector<int> ranks = all_ranks();
  for (const torch::ScalarType dtype :
       {torch::kFloat16, torch::kBFloat16, torch::kFloat32, torch::kFloat64}) {
    Reductions reductions;
    for (const ReduceOp op : {ReduceOp::Sum, ReduceOp::Average, ReduceOp::Max}) {
      const torch::Tensor plain = reduced({100}, dtype, 8, op, ranks).to(torch::kFloat64);
      AllreduceOptions options{.op = op};
      options.prescale = 0.5;
      options.postscale = 3;
      reductions.add(own_values({100}, dtype, 8), (plain * 1.5).to(dtype), options);
      options.postscale = 1;
      reductions.add(own_values({100}, dtype, 8), (plain * 0.5).to(dtype), options);
    }
    reductions.check();
  }
}

TEST_F(OpsTest, TensorsInKolosMemory) {
  for (const torch::ScalarType dtype : kDtypes) {
    for (const std::int64_t size : kSizes) {
      torch::Tensor tensor = kolo::empty({size, 2}, there(dtype));
      EXPECT_EQ(tensor.sizes(), (torch::IntArrayRef{size, 2}));
      EXPECT_EQ(tensor.scalar_type(), dtype);
      EXPECT_TRUE(tensor.is_contiguous());
      EXPECT_EQ(reinterpret_cast<std::uintptr_t>(tensor.data_ptr()) % 64, 0U);
      tensor.copy_(own_values({size, 2}, dtype, 3));
      if (!can_be_reduced(dtype)) continue;
      kolo::allreduce_(tensor, {.op = ReduceOp::Max});
      expect_values(tensor, reduced({size, 2}, dtype, 3, ReduceOp::Max, all_ranks()));
    }
  }
  EXPECT_TRUE(kolo::empty({3}, there().requires_grad(true)).requires_grad());
  EXPECT_EQ(kolo::empty({}).numel(), 1);
}

TEST_F(OpsTest, NamesMayBeUsedAgain) {
  for (int i = 0; i < 5; ++i) {
    expect_values(kolo::allreduce(own_values({4}, torch::kFloat64, i), {.name = "again"}),
                  reduced({4}, torch::kFloat64, i, ReduceOp::Average, all_ranks()));
  }
}

TEST_F(OpsTest, WorkIsAHandle) {
  Work work = kolo::allreduce_async(own_values({4}, torch::kFloat64, 9));
  Work copy = work;
  copy.wait();
  work.synchronize();
  EXPECT_TRUE(work.done() && copy.done());
  EXPECT_TRUE(work.result().is_same(copy.result()));
  EXPECT_FALSE(kolo::barrier_async().result().defined());
}

TEST_F(OpsTest, WorkThatIsDropped) {
  for (int i = 0; i < 20; ++i) {
    // The tensors go out of scope at once, too.
    torch::Tensor tensor = own_values({2000}, torch::kFloat64, i);
    (void)kolo::allreduce_async_(tensor);
    (void)kolo::broadcast_async(tensor.slice(0, 0, 2000, 3), 0);
    (void)kolo::allgather_async(own_values({i}, torch::kFloat64, i));
    (void)kolo::barrier_async();
  }
  expect_usable();
}

TEST_F(OpsTest, AnotherOrderOnEachRank) {
  constexpr int kCount = 30;
  std::vector<int> order(kCount);
  std::iota(order.begin(), order.end(), 0);
  std::rotate(order.begin(), order.begin() + 7 * kolo::rank(), order.end());
  if (kolo::rank() % 2 == 1) std::reverse(order.begin(), order.end());
  std::map<int, Work> works;
  for (const int i : order) {
    const std::string name = "order." + std::to_string(i);
    const torch::Tensor input = own_values({i * 11}, torch::kFloat64, i);
    if (i % 3 == 0) works.emplace(i, kolo::allreduce_async(input, {.name = name}));
    if (i % 3 == 1)
      works.emplace(i, kolo::broadcast_async(input, i % kolo::size(), {.name = name}));
    if (i % 3 == 2) works.emplace(i, kolo::allgather_async(input, {.name = name}));
  }
  for (auto& [i, work] : works) {
    const torch::Tensor result = work.result();
    if (i % 3 == 0) {
      expect_values(result, reduced({i * 11}, torch::kFloat64, i, ReduceOp::Average, all_ranks()));
    }
    if (i % 3 == 1) {
      EXPECT_TRUE(identical(result, values({i * 11}, torch::kFloat64, i, i % kolo::size())));
    }
    if (i % 3 == 2) {
      EXPECT_EQ(result.numel(), i * 11 * kolo::size());
    }
  }
}

TEST_F(OpsTest, SeveralThreads) {
  const auto work = [](int thread) {
    for (int i = 0; i < 20; ++i) {
      const int seed = 100 * thread + i;
      const std::string name = "thread." + std::to_string(thread);
      expect_values(kolo::allreduce(own_values({50}, torch::kFloat64, seed), {.name = name}),
                    reduced({50}, torch::kFloat64, seed, ReduceOp::Average, all_ranks()));
    }
  };
  std::thread other(work, 1);
  work(2);
  other.join();
}

TEST_F(OpsTest, ProcessSets) {
  std::vector<int> even;
  std::vector<int> odd;
  for (const int rank : all_ranks()) (rank % 2 == 0 ? even : odd).push_back(rank);
  if (odd.empty()) odd = even;
  const ProcessSet evens = kolo::add_process_set(even);
  const ProcessSet odds = kolo::add_process_set(odd);
  const ProcessSet twins[] = {kolo::add_process_set(all_ranks()), kolo::add_process_set({0})};
  const bool is_even = kolo::rank() % 2 == 0;
  const std::vector<int>& mine = is_even ? even : odd;
  const ProcessSet set = is_even ? evens : odds;
  for (int i = 0; i < 10; ++i) {
    const torch::Tensor input = own_values({20}, torch::kFloat64, i);
    Work world = kolo::allreduce_async(input, {.name = "x"});
    Work twin = kolo::allreduce_async(input, {.name = "x", .process_set = twins[0]});
    expect_values(kolo::allreduce(input, {.name = "x", .process_set = set}),
                  reduced({20}, torch::kFloat64, i, ReduceOp::Average, mine));
    EXPECT_TRUE(identical(kolo::broadcast(input, mine.back(), {.process_set = set}),
                          values({20}, torch::kFloat64, i, mine.back())));
    EXPECT_EQ(kolo::allgather(input, {.process_set = set}).size(0),
              20 * static_cast<std::int64_t>(mine.size()));
    kolo::barrier({.process_set = set});
    if (kolo::rank() == 0) {
      EXPECT_TRUE(identical(kolo::allreduce(input, {.process_set = twins[1]}), input));
    }
    EXPECT_TRUE(identical(world.result(), twin.result()));
  }
}

TEST_F(OpsTest, TwoSetsOfTheSameRanksInTwoThreads) {
  const ProcessSet sets[] = {kolo::add_process_set(all_ranks()),
                             kolo::add_process_set(all_ranks())};
  const auto work = [&sets](std::size_t thread) {
    for (int i = 0; i < 20; ++i) {
      // Unnamed: each set counts for itself.
      expect_values(
          kolo::allreduce(own_values({50}, torch::kFloat64, i), {.process_set = sets[thread]}),
          reduced({50}, torch::kFloat64, i, ReduceOp::Average, all_ranks()));
    }
  };
  std::thread other(work, 0U);
  work(1);
  other.join();
}

}  // namespace
}  // namespace kolo::testing
