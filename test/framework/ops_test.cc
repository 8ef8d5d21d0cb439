// Collectives on tensors, against what one process computes from all ranks' inputs.

#include <optional>
#include <vector>

#include "framework/ops_oracle.h"

namespace kolo::testing {
namespace {

constexpr ReduceOp kOps[] = {ReduceOp::Sum, ReduceOp::Average, ReduceOp::Min, ReduceOp::Max,
                             ReduceOp::Product};
constexpr std::int64_t kMebi = 1 << 20;
constexpr std::int64_t kSizes[] = {0, 1, 3, 1023, kMebi};

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
        if (size == kMebi && op != ReduceOp::Sum) continue;
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
    reductions.add(own_values({kMebi}, torch::kFloat32, i),
                   reduced({kMebi}, torch::kFloat32, i, ReduceOp::Average, all_ranks()), {});
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
    for (const std::int64_t size : {0, 1, 3, 1023}) {
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

}  // namespace
}  // namespace kolo::testing
