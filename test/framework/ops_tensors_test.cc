// Tensors that are more, or less, than dense memory: lazy signs, versions, graphs, no storage,
// complex numbers.

#include <limits>

#include "framework/support.h"

namespace kolo::testing {
namespace {

class OpsTensorsTest : public FrameworkTest {
 protected:
  void TearDown() override { expect_usable(); }
};

// ---- lazy signs ----

/// Of `rows` times `size()` rows, minus 1, minus 2, …; the signs are a bit of the tensor if it is
/// lazy.
torch::Tensor negatives(std::int64_t rows, bool lazy) {
  const std::int64_t count = rows * kolo::size();
  const torch::Tensor numbers = torch::arange(1, 3 * count + 1, there()).view({count, 3});
  const torch::Tensor negative = lazy ? torch::_neg_view(numbers) : -numbers;
  EXPECT_EQ(negative.is_neg(), lazy);
  EXPECT_TRUE(negative.is_contiguous());
  return negative;
}

void expect_equal(const torch::Tensor& actual, const torch::Tensor& expected) {
  EXPECT_TRUE(torch::equal(actual.resolve_neg(), expected.resolve_neg()))
      << actual.flatten()[0] << " instead of " << expected.flatten()[0];
}

TEST_F(OpsTensorsTest, LazySigns) {
  const int size = kolo::size();
  for (const std::int64_t rows : {1, 1000}) {
    for (const bool on_all : {true, false}) {
      const auto make = [&] { return negatives(rows, on_all || kolo::rank() == 0); };
      const torch::Tensor plain = negatives(rows, /*lazy=*/false);
      const AllreduceOptions sum{.op = ReduceOp::Sum};
      expect_equal(kolo::allreduce(make(), sum), plain * size);
      expect_equal(kolo::allreduce_async(make(), sum).result(), plain * size);
      expect_equal(kolo::broadcast(make(), 0), plain);
      expect_equal(kolo::broadcast_async(make(), 0).result(), plain);
      expect_equal(kolo::allgather(make()), plain.repeat({size, 1}));
      const auto mine = static_cast<std::int64_t>(kolo::rank()) * rows;
      expect_equal(kolo::reducescatter(make(), {.op = ReduceOp::Sum}),
                   plain.narrow(0, mine, rows) * size);
      expect_equal(kolo::alltoall(make()), plain.narrow(0, mine, rows).repeat({size, 1}));
    }
  }
}

TEST_F(OpsTensorsTest, LazySignsInPlace) {
  const int size = kolo::size();
  for (const std::int64_t rows : {1, 1000}) {
    const auto make = [&] { return negatives(rows, kolo::rank() == last_rank()); };
    const torch::Tensor plain = negatives(rows, /*lazy=*/false);
    torch::Tensor tensor = make();
    kolo::allreduce_async_(tensor, {.op = ReduceOp::Sum}).wait();
    expect_equal(tensor, plain * size);
    kolo::broadcast_(tensor = make(), last_rank());
    expect_equal(tensor, plain);
    kolo::broadcast_async_(tensor = make(), last_rank()).wait();
    expect_equal(tensor, plain);
    for (int i = 0; i < 5; ++i) {
      kolo::allreduce_(tensor = make(), {.name = "recurs", .op = ReduceOp::Sum});
      expect_equal(tensor, plain * size);
    }
  }
}

// ---- autograd ----

using Change = std::function<void(torch::Tensor&)>;

std::vector<std::pair<std::string, Change>> in_place_forms() {
  return {{"allreduce_", [](torch::Tensor& t) { kolo::allreduce_(t); }},
          {"allreduce_async_", [](torch::Tensor& t) { kolo::allreduce_async_(t).wait(); }},
          {"broadcast_", [](torch::Tensor& t) { kolo::broadcast_(t, 0); }},
          {"broadcast_async_", [](torch::Tensor& t) { kolo::broadcast_async_(t, 0).wait(); }}};
}

/// Of y = x * w, after `change` of w, which backward needs. 0: LibTorch refuses.
double gradient_after(const Change& change, bool transposed) {
  torch::Tensor w = torch::full({4, 4}, 2.0, there());
  if (transposed) w = w.t();
  const torch::Tensor x = torch::full({4, 4}, 3.0, there()).requires_grad_();
  const torch::Tensor y = x * w;
  change(w);
  try {
    y.sum().backward();
  } catch (const c10::Error& error) {
    EXPECT_NE(std::string(error.what()).find("modified by an inplace operation"),
              std::string::npos);
    return 0;
  }
  return x.grad()[0][0].item<double>();
}

TEST_F(OpsTensorsTest, AutogradFindsOutWhatChangesInPlace) {
  for (const bool transposed : {false, true}) {
    for (const auto& [name, change] : in_place_forms()) {
      SCOPED_TRACE(name);
      EXPECT_EQ(gradient_after(change, transposed), 0);
    }
    const auto leaves_it = [](torch::Tensor& t) {
      kolo::allreduce(t);
      kolo::broadcast(t, 0);
      kolo::allgather(t);
    };
    EXPECT_EQ(gradient_after(leaves_it, transposed), 2);
  }
}

TEST_F(OpsTensorsTest, InPlaceOnTensorsOfInferenceMode) {
  for (const bool transposed : {false, true}) {
    for (const auto& [name, change] : in_place_forms()) {
      SCOPED_TRACE(name);
      torch::Tensor tensor;
      {
        const c10::InferenceMode guard;
        tensor = torch::full({3, 4}, 5.0, there());
        if (transposed) tensor = tensor.t();
      }
      change(tensor);
      EXPECT_EQ(tensor.sum().item<double>(), 60);
    }
  }
}

/// What `call` logs.
std::string log_of(const std::function<void()>& call) {
  ::testing::internal::CaptureStderr();
  call();
  return ::testing::internal::GetCapturedStderr();
}

std::size_t count(const std::string& text, const std::string& part) {
  std::size_t times = 0;
  for (std::size_t i = text.find(part); i != std::string::npos; i = text.find(part, i + 1)) ++times;
  return times;
}

TEST_F(OpsTensorsTest, AGraphThatEndsIsToldOnceForEachName) {
  const torch::Tensor leaf = torch::ones({kolo::size(), 2}, there().requires_grad(true));
  const std::vector<std::pair<std::string, std::function<torch::Tensor(const torch::Tensor&)>>>
      forms = {
          {"allreduce", [](const auto& t) { return kolo::allreduce(t, {.name = "cut"}); }},
          {"allreduce 'async'",
           [](const auto& t) { return kolo::allreduce_async(t, {.name = "async"}).result(); }},
          {"broadcast", [](const auto& t) { return kolo::broadcast(t, 0, {.name = "cut"}); }},
          {"allgather", [](const auto& t) { return kolo::allgather(t, {.name = "cut"}); }},
          {"reducescatter", [](const auto& t) { return kolo::reducescatter(t, {.name = "cut"}); }},
          {"alltoall", [](const auto& t) { return kolo::alltoall(t, {.name = "cut"}); }}};
  for (const auto& [form, call] : forms) {
    SCOPED_TRACE(form);
    const std::string silent = log_of([&, &call = call] {
      call((leaf * 2).detach());
      const torch::NoGradGuard no_grad;
      EXPECT_FALSE(call(leaf).requires_grad());
    });
    EXPECT_EQ(silent, "");
    const std::string log = log_of([&, &call = call] {
      for (int i = 0; i < 3; ++i) EXPECT_FALSE(call(leaf * 2).requires_grad());
    });
    const std::string label = form.find('\'') == std::string::npos ? form + " 'cut'" : form;
    EXPECT_EQ(count(log, label + ": its tensor requires grad, but its result does not"), 1U) << log;
    EXPECT_NE(log.find("tensor.detach()"), std::string::npos);
  }
}

// ---- memory ----

/// `call` on one rank, while the others call what is fit: all get the error, and what else is under
/// way goes on.
void expect_refused(const std::function<void()>& call, const std::vector<std::string>& parts) {
  for (int refused = 0; refused < std::min(kolo::size(), 2); ++refused) {
    Work other = kolo::allreduce_async(torch::ones({4}, there()), {.op = ReduceOp::Sum});
    const auto fit = [] { kolo::allreduce(torch::ones({4}, there()), {.name = "x"}); };
    std::vector<std::string> expected = parts;
    expected.push_back("allreduce 'x'");
    expected.push_back("rank " + std::to_string(refused));
    expect_error(kolo::rank() == refused ? call : fit, expected);
    EXPECT_EQ(other.result()[0].item<int>(), kolo::size());
    expect_usable();
  }
}

TEST_F(OpsTensorsTest, WithoutStorage) {
  torch::Tensor zeros = torch::_efficientzerotensor({4}, there());
  torch::Tensor freed = torch::ones({4}, there());
  freed.storage().unsafeGetStorageImpl()->set_data_ptr(c10::DataPtr(nullptr, freed.device()));
  torch::Tensor nested =
      torch::_nested_tensor_from_mask(torch::ones({1, 2, 2}), torch::ones({1, 2}, torch::kBool));
  const std::vector<std::pair<torch::Tensor*, std::string>> unfit = {
      {&zeros, "the tensor has no memory for its elements"},
      {&freed, "the tensor has no memory for its elements"},
      {&nested, "the tensor is a nested one"}};
  for (const auto& [tensor, words] : unfit) {
    const std::vector<std::string> parts = {words, "first"};
    expect_refused([t = tensor] { kolo::allreduce(*t, {.name = "x"}); }, parts);
    expect_refused([t = tensor] { kolo::allreduce_(*t, {.name = "x"}); }, parts);
    expect_refused([t = tensor] { kolo::allreduce_async_(*t, {.name = "x"}).wait(); }, parts);
  }
  // The way out.
  const torch::Tensor sum = kolo::allreduce(zeros.clone());
  EXPECT_EQ(sum.sum().item<double>(), 0);
}

TEST_F(OpsTensorsTest, ScalarsWithoutStorage) {
  const torch::Tensor sparse = torch::ones({}).to_sparse();
  expect_error([&] { kolo::allgather(sparse, {.name = "x"}); }, {"'x'", "layout Sparse"});
}

TEST_F(OpsTensorsTest, ExpandedInPlace) {
  torch::Tensor expanded = torch::ones({1}, there()).expand({4});
  const std::vector<std::string> parts = {"the tensor is expanded", "sizes [4], strides [0]",
                                          "call contiguous() first"};
  expect_refused([&] { kolo::allreduce_(expanded, {.name = "x"}); }, parts);
  expect_refused([&] { kolo::allreduce_async_(expanded, {.name = "x"}).wait(); }, parts);
  // Out of place all is well.
  EXPECT_EQ(kolo::allreduce(expanded, {.op = ReduceOp::Sum})[3].item<int>(), kolo::size());
  EXPECT_EQ(kolo::broadcast(expanded, 0)[3].item<int>(), 1);
}

// ---- numbers ----

TEST_F(OpsTensorsTest, AReduceOpThatIsNone) {
  const auto none = static_cast<ReduceOp>(42);
  const std::vector<std::string> parts = {"reduce op 42 is not a value of kolo::ReduceOp"};
  torch::Tensor tensor = torch::ones({4}, there());
  expect_refused([&] { kolo::allreduce(tensor, {.name = "x", .op = none}); }, parts);
  expect_refused([&] { kolo::allreduce_(tensor, {.name = "x", .op = none}); }, parts);
  expect_error([&] { kolo::reducescatter(tensor, {.name = "x", .op = none}); }, parts);

  torch::nn::Linear model(2, 1);
  torch::optim::SGD sgd(model->parameters(), 0.1);
  DistributedOptimizerOptions options;
  if (kolo::rank() == last_rank()) options.op = none;
  expect_error(
      [&] { DistributedOptimizer(sgd, model->named_parameters(), options); },
      {"reduce op 42 is not a value of kolo::ReduceOp", "rank " + std::to_string(last_rank())});
}

TEST_F(OpsTensorsTest, AveragesOfIntegersThatOverflowAsSums) {
  if (!device().is_cpu()) GTEST_SKIP() << "NCCL's averages of integers are those of sums that wrap";
  for (const torch::ScalarType dtype :
       {torch::kUInt8, torch::kInt8, torch::kInt16, torch::kInt32, torch::kInt64}) {
    for (const std::int64_t size : {1, 1000, 100'000}) {
      const torch::Tensor info = torch::tensor({std::numeric_limits<std::int64_t>::max()});
      const std::int64_t bits = 8 * static_cast<std::int64_t>(c10::elementSize(dtype));
      const std::int64_t largest =
          info[0].item<std::int64_t>() >> (dtype == torch::kUInt8 ? 55 : 64 - bits);
      const auto all_largest = torch::full({size}, largest, dtype);
      EXPECT_TRUE(identical(kolo::allreduce(all_largest), all_largest)) << dtype << " " << size;
      if (dtype == torch::kUInt8) continue;
      const auto all_smallest = torch::full({size}, -largest - 1, dtype);
      EXPECT_TRUE(identical(kolo::allreduce(all_smallest), all_smallest)) << dtype << " " << size;
    }
  }
}

TEST_F(OpsTensorsTest, ComplexNumbers) {
  const torch::Tensor tensor = torch::ones({4}, there(torch::kComplexFloat));
  expect_error([&] { kolo::allreduce(tensor, {.name = "x"}); },
               {"'x'", "dtype ComplexFloat is not supported", "pass torch::view_as_real(tensor)"});
  const torch::Tensor sum = kolo::allreduce(torch::view_as_real(tensor), {.op = ReduceOp::Sum});
  EXPECT_EQ(torch::view_as_complex(sum)[3].item<c10::complex<float>>().real(), kolo::size());
}

/// As ports of Llama have it, and a conjugate, which LibTorch makes when it is needed.
struct Rotary : torch::nn::Module {
  explicit Rotary(double angle) {
    const auto table = torch::polar(torch::ones({8, 3}), torch::full({8, 3}, angle));
    register_buffer("freqs", table.clone());
    register_buffer("transposed", table.to(torch::kComplexDouble).t());
    register_buffer("conjugate",
                    kolo::rank() % 2 == 0 ? torch::conj(table) : torch::conj_physical(table));
  }
};

TEST_F(OpsTensorsTest, ComplexBuffersAreBroadcast) {
  for (int root = 0; root < std::min(kolo::size(), 2); ++root) {
    Rotary model(0.1 * (kolo::rank() + 1));
    kolo::broadcast_parameters(model, root);
    const Rotary expected(0.1 * (root + 1));
    for (const auto& item : expected.named_buffers()) {
      EXPECT_TRUE(
          torch::equal(torch::view_as_real(model.named_buffers()[item.key()].resolve_conj()),
                       torch::view_as_real(item.value().resolve_conj())))
          << item.key();
    }
  }
}

}  // namespace
}  // namespace kolo::testing
