// Calls that do not go together, on one rank or between ranks: an error on every rank, and then on.

#include "framework/support.h"

namespace kolo::testing {
namespace {

class OpsErrorsTest : public FrameworkTest {
 protected:
  void TearDown() override {
    if (kolo::is_initialized()) expect_usable();
  }
};

std::string last_rank_has(const std::string& value) {
  return "rank " + std::to_string(last_rank()) + " has " + value;
}

/// `call` gets whether this rank is the one that deviates. The message must name the tensor 'x',
/// the deviating rank with its value, and what another one has.
void expect_mismatch(const std::function<void(bool deviates)>& call, const std::string& what,
                     const std::string& value, const std::string& deviating_value) {
  if (kolo::size() == 1) return;
  expect_error([&] { call(kolo::rank() == last_rank()); },
               {"'x'", what + " differs", " has " + value, last_rank_has(deviating_value)});
  expect_usable();
}

TEST_F(OpsErrorsTest, OtherDtype) {
  expect_mismatch(
      [](bool deviates) {
        const auto dtype = deviates ? torch::kFloat64 : torch::kFloat32;
        kolo::allreduce(torch::ones({4}, dtype), {.name = "x"});
      },
      "dtype", "float32", "float64");
}

TEST_F(OpsErrorsTest, OtherShape) {
  expect_mismatch(
      [](bool deviates) {
        kolo::allreduce(torch::ones({deviates ? 2 : 4, 3}), {.name = "x"});
      },
      "shape", "[4, 3]", "[2, 3]");
  expect_mismatch(
      [](bool deviates) {
        kolo::broadcast(deviates ? torch::ones({12}) : torch::ones({4, 3}), 0, {.name = "x"});
      },
      "shape", "[4, 3]", "[12]");
  expect_mismatch(
      [](bool deviates) {
        kolo::allgather(torch::ones({4, deviates ? 2 : 3}), {.name = "x"});
      },
      "shape", "[4, 3]", "[4, 2]");
}

TEST_F(OpsErrorsTest, OtherReduceOp) {
  expect_mismatch(
      [](bool deviates) {
        kolo::allreduce(torch::ones({4}),
                        {.name = "x", .op = deviates ? ReduceOp::Sum : ReduceOp::Average});
      },
      "reduce op", "Average", "Sum");
}

TEST_F(OpsErrorsTest, OtherRoot) {
  expect_mismatch(
      [](bool deviates) { kolo::broadcast(torch::ones({4}), deviates ? 1 : 0, {.name = "x"}); },
      "root rank", "0", "1");
}

TEST_F(OpsErrorsTest, OtherKind) {
  expect_mismatch(
      [](bool deviates) {
        const torch::Tensor tensor = torch::ones({4});
        if (deviates) kolo::allgather(tensor, {.name = "x"});
        if (!deviates) kolo::allreduce(tensor, {.name = "x"});
      },
      "operation", "allreduce", "allgather");
}

TEST_F(OpsErrorsTest, OtherScale) {
  expect_mismatch(
      [](bool deviates) {
        kolo::allreduce(torch::ones({4}), {.name = "x", .prescale = deviates ? 0.25 : 0.5});
      },
      "prescale", "0.5", "0.25");
}

TEST_F(OpsErrorsTest, OthersInFlightAreNotHarmed) {
  std::vector<Work> works;
  for (int i = 0; i < 10; ++i) {
    works.push_back(kolo::allreduce_async(torch::full({50}, kolo::rank()), {.op = ReduceOp::Sum}));
  }
  expect_mismatch(
      [](bool deviates) { kolo::allreduce(torch::ones({deviates ? 2 : 4}), {.name = "x"}); },
      "shape", "[4]", "[2]");
  for (Work& work : works) {
    EXPECT_EQ(work.result()[0].item<int>(), kolo::size() * (kolo::size() - 1) / 2);
  }
}

TEST_F(OpsErrorsTest, ANameSubmittedTwice) {
  if (kolo::size() == 1) return;
  // Nothing under this name is done before rank 0 has submitted it, too.
  std::optional<Work> first;
  if (kolo::rank() != 0) {
    first = kolo::allreduce_async(torch::ones({4}), {.name = "twice", .op = ReduceOp::Sum});
    expect_error([&] { kolo::allreduce(torch::ones({4}), {.name = "twice"}); },
                 {"'twice': submitted twice", "in use", "rank " + std::to_string(kolo::rank())});
  }
  kolo::barrier();
  if (kolo::rank() == 0) {
    first = kolo::allreduce_async(torch::ones({4}), {.name = "twice", .op = ReduceOp::Sum});
  }
  EXPECT_EQ(first->result()[3].item<int>(), kolo::size());
  if (kolo::rank() == 0) {
    expect_error([&] { kolo::allreduce(torch::ones({4}), {.name = "twice"}); },
                 {"'twice': refused on rank ", "submitted twice"});
  }
  const auto third = kolo::allreduce(torch::full({4}, 100), {.name = "twice", .op = ReduceOp::Sum});
  EXPECT_EQ(third[3].item<int>(), 100 * kolo::size());
}

/// `call` is not fit to run on any rank: once it is tried on all ranks, once on one while the
/// others call `fit`, which must fail as well.
void expect_refusal(const std::function<void()>& call, const std::function<void()>& fit,
                    const std::vector<std::string>& parts) {
  std::vector<std::string> expected = parts;
  expected.push_back("'x'");
  expect_error(call, expected);
  expect_usable();
  if (kolo::size() == 1) return;
  expected.push_back("rank " + std::to_string(last_rank()));
  expect_error(kolo::rank() == last_rank() ? call : fit, expected);
  expect_usable();
}

void fit_allreduce() { kolo::allreduce(torch::ones({4}), {.name = "x"}); }
void fit_broadcast() { kolo::broadcast(torch::ones({4}), 0, {.name = "x"}); }
void fit_allgather() { kolo::allgather(torch::ones({4}), {.name = "x"}); }

TEST_F(OpsErrorsTest, RootOutOfRange) {
  for (const int root : {-1, kolo::size()}) {
    expect_refusal([root] { kolo::broadcast(torch::ones({4}), root, {.name = "x"}); },
                   fit_broadcast,
                   {"root rank " + std::to_string(root) + " is out of range", "has ranks 0"});
  }
}

TEST_F(OpsErrorsTest, UnfitTensors) {
  torch::Tensor undefined;
  torch::Tensor sparse = torch::ones({4}).to_sparse();
  torch::Tensor meta = torch::empty({4}, torch::TensorOptions(torch::kMeta));
  torch::Tensor complex = torch::ones({4}, torch::kComplexFloat);
  torch::Tensor mkldnn = torch::ones({4}).to_mkldnn();
  struct Case {
    torch::Tensor tensor;
    std::vector<std::string> parts;
  };
  for (Case& unfit : std::vector<Case>{{undefined, {"undefined"}},
                                       {sparse, {"layout Sparse", "to_dense()"}},
                                       {meta, {"device meta"}},
                                       {complex, {"dtype ComplexFloat"}},
                                       {mkldnn, {"layout Mkldnn"}}}) {
    torch::Tensor& tensor = unfit.tensor;
    SCOPED_TRACE(unfit.parts.front());
    expect_refusal([&] { kolo::allreduce(tensor, {.name = "x"}); }, fit_allreduce, unfit.parts);
    expect_refusal([&] { kolo::allreduce_(tensor, {.name = "x"}); }, fit_allreduce, unfit.parts);
    expect_refusal([&] { kolo::broadcast(tensor, 0, {.name = "x"}); }, fit_broadcast, unfit.parts);
    expect_refusal([&] { kolo::broadcast_(tensor, 0, {.name = "x"}); }, fit_broadcast, unfit.parts);
    expect_refusal([&] { kolo::allgather(tensor, {.name = "x"}); }, fit_allgather, unfit.parts);
  }
}

/// Says that it is on this GPU, which need not be there.
torch::Tensor tensor_on_gpu(c10::DeviceIndex index) {
  static std::vector<float> memory(4);
  const torch::Device device(torch::kCUDA, index);
  c10::Storage storage(c10::Storage::use_byte_size_t(), memory.size() * sizeof(float),
                       c10::DataPtr(memory.data(), device));
  torch::Tensor tensor = at::detail::make_tensor<c10::TensorImpl>(
      std::move(storage), c10::DispatchKeySet(c10::DispatchKey::CUDA),
      caffe2::TypeMeta::Make<float>());
  tensor.unsafeGetTensorImpl()->set_sizes_contiguous({4});
  return tensor;
}

// Also where there is none: then all are others.
TEST_F(OpsErrorsTest, AnotherGpuThanTheRanksOwn) {
  const torch::Device own = kolo::local_device();
  const auto index = static_cast<c10::DeviceIndex>(own.is_cuda() ? own.index() + 1 : 1);
  torch::Tensor tensor = tensor_on_gpu(index);
  const std::vector<std::string> parts = {
      "device " + c10::str(tensor.device()),
      own.is_cuda() ? "uses " + c10::str(own) + ": put its tensors on kolo::local_device()"
                    : "call cpu() first"};
  expect_refusal([&] { kolo::allreduce(tensor, {.name = "x"}); }, fit_allreduce, parts);
  expect_refusal([&] { kolo::allreduce_(tensor, {.name = "x"}); }, fit_allreduce, parts);
  expect_refusal([&] { kolo::broadcast_(tensor, 0, {.name = "x"}); }, fit_broadcast, parts);
  expect_refusal([&] { kolo::allgather(tensor, {.name = "x"}); }, fit_allgather, parts);
  expect_error([&] { kolo::empty({4}, tensor.device()); },
               {"kolo::empty()", "device " + c10::str(tensor.device()), parts[1]});
}

TEST_F(OpsErrorsTest, AverageOfBools) {
  expect_refusal([] { kolo::allreduce(torch::ones({4}, torch::kBool), {.name = "x"}); },
                 fit_allreduce, {"bool", "no average"});
}

TEST_F(OpsErrorsTest, ScalesOnIntegers) {
  const torch::Tensor integers = torch::ones({4}, torch::kInt32);
  expect_refusal([&] { kolo::allreduce(integers, {.name = "x", .prescale = 2}); }, fit_allreduce,
                 {"prescale and postscale need a floating dtype, not int32"});
  expect_refusal([&] { kolo::allreduce(integers, {.name = "x", .postscale = 0.5}); }, fit_allreduce,
                 {"prescale and postscale need a floating dtype, not int32"});
}

TEST_F(OpsErrorsTest, ProcessSetsThatCannotBe) {
  const int size = kolo::size();
  expect_error([&] { kolo::add_process_set({}); }, {"at least one"});
  expect_error([&] { kolo::add_process_set({0, 0}); }, {"distinct and ascending", "[0, 0]"});
  expect_error([&] { kolo::add_process_set({size}); },
               {"rank " + std::to_string(size) + " does not exist"});
  if (size > 1) {
    expect_error([&] { kolo::add_process_set({1, 0}); }, {"ascending", "[1, 0]"});
    expect_error([&] { kolo::add_process_set({kolo::rank() == last_rank() ? 1 : 0}); },
                 {"list of ranks differs", "has [0]", last_rank_has("[1]")});
  }
}

TEST_F(OpsErrorsTest, SetsThatTheRankIsNotIn) {
  if (kolo::size() == 1) return;
  const ProcessSet first = kolo::add_process_set({0});
  const auto call = [&] { kolo::allreduce(torch::ones({4}), {.name = "x", .process_set = first}); };
  if (kolo::rank() == 0) call();
  if (kolo::rank() != 0) {
    expect_error(call, {"'x'", "rank " + std::to_string(kolo::rank()) + " is not a member"});
  }
  // A root has to be one, too.
  const auto broadcast = [&] { kolo::broadcast(torch::ones({4}), 1, {.process_set = first}); };
  if (kolo::rank() == 0) expect_error(broadcast, {"root rank 1 is out of range", "has ranks 0"});
}

TEST_F(OpsErrorsTest, TensorsThatKolosMemoryCannotHold) {
  const auto make = [](std::vector<std::int64_t> sizes, const torch::TensorOptions& options) {
    return [=] { kolo::empty(sizes, options); };
  };
  expect_error(make({2}, torch::kMeta), {"kolo::empty()", "meta"});
  if (device().is_cpu()) expect_error(make({2}, torch::kCUDA), {"kolo::empty()", "cuda"});
  expect_error(make({2}, torch::kSparse), {"kolo::empty()", "Sparse"});
  expect_error(make({2, -1}, torch::kFloat), {"kolo::empty()", "negative", "[2, -1]"});
  expect_error(make({1LL << 40, 1LL << 40}, torch::kFloat), {"kolo::empty()", "no memory"});
}

TEST_F(OpsErrorsTest, LifeStartsAnewAfterShutdown) {
  for (int i = 0; i < 3; ++i) {
    const int rank = kolo::rank();
    kolo::init();  // the second time: nothing
    EXPECT_EQ(kolo::rank(), rank);
    kolo::shutdown();
    EXPECT_FALSE(kolo::is_initialized());
    expect_error([] { kolo::rank(); }, {"call kolo::init() first"});
    expect_error([] { kolo::local_device(); }, {"call kolo::init() first"});
    expect_error([] { kolo::allreduce(torch::ones({1})); }, {"call kolo::init() first"});
    expect_error([] { kolo::barrier_async(); }, {"call kolo::init() first"});
    kolo::shutdown();
    kolo::init();
    EXPECT_EQ(kolo::rank(), rank);
    expect_usable();
  }
}

TEST_F(OpsErrorsTest, ShutdownEndsWhatOthersWaitFor) {
  if (kolo::size() > 1) {
    if (kolo::rank() != last_rank()) {
      expect_error([] { kolo::allreduce(torch::ones({4}), {.name = "x"}); },
                   {"'x'", "rank " + std::to_string(last_rank()) + " has shut down Kolo"});
    }
  }
  kolo::shutdown();
}

}  // namespace
}  // namespace kolo::testing
