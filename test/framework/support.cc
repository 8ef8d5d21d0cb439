#include "framework/support.h"

#include <ATen/CPUGeneratorImpl.h>

#include <cstdlib>
#include <cstring>
#include <numeric>
#include <string_view>

namespace kolo::testing {

namespace {

bool gpu_is_wanted() {
  const char* const name = std::getenv("KOLO_TEST_DEVICE");
  return name != nullptr && std::string_view(name) == "cuda";
}

}  // namespace

torch::Device device() { return gpu_is_wanted() ? kolo::local_device() : torch::kCPU; }

torch::TensorOptions there(torch::ScalarType dtype) {
  return torch::TensorOptions().dtype(dtype).device(device());
}

bool can_be_reduced(torch::ScalarType dtype) { return device().is_cpu() || dtype != torch::kInt16; }

std::vector<int> all_ranks() {
  std::vector<int> ranks(static_cast<std::size_t>(kolo::size()));
  std::iota(ranks.begin(), ranks.end(), 0);
  return ranks;
}

int last_rank() { return kolo::size() - 1; }

FrameworkTest::FrameworkTest() {
  kolo::init();
  torch::set_num_threads(1);
  torch::manual_seed(1);
  // Of convolutions: results are compared with sums in another order.
  at::globalContext().setAllowTF32CuDNN(false);
}

void FrameworkTest::SetUp() {
  if (gpu_is_wanted() && device().is_cpu()) GTEST_SKIP() << "this host, or this build, has no GPU";
}

torch::Tensor random(torch::IntArrayRef shape, std::initializer_list<int> seeds,
                     torch::ScalarType dtype) {
  std::uint64_t seed = 17;
  for (const int part : seeds) seed = seed * 1000003 + static_cast<std::uint64_t>(part + 1);
  const at::Generator generator = at::detail::createCPUGenerator(seed);
  return torch::randn(shape, generator, torch::TensorOptions(torch::kFloat64)).to(there(dtype));
}

std::vector<torch::Tensor> gather(const torch::Tensor& tensor) {
  return kolo::allgather(tensor.detach().unsqueeze(0)).unbind(0);
}

bool identical(const torch::Tensor& a, const torch::Tensor& b) {
  if (a.sizes() != b.sizes() || a.scalar_type() != b.scalar_type()) return false;
  const torch::Tensor x = a.detach().cpu().contiguous();
  const torch::Tensor y = b.detach().cpu().contiguous();
  return x.nbytes() == 0 || std::memcmp(x.data_ptr(), y.data_ptr(), x.nbytes()) == 0;
}

bool identical_on_all_ranks(const torch::Tensor& tensor) {
  for (const torch::Tensor& other : gather(tensor)) {
    if (!identical(tensor, other)) return false;
  }
  return true;
}

double relative_difference(const torch::Tensor& a, const torch::Tensor& b) {
  if (a.numel() == 0 && b.numel() == 0) return 0;
  const torch::Tensor x = a.detach().cpu().to(torch::kFloat64);
  const torch::Tensor y = b.detach().cpu().to(torch::kFloat64);
  const auto most = (x - y).abs().max().item<double>();
  return most == 0 ? 0 : most / y.abs().max().item<double>();
}

std::string error_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const kolo::Error& error) {
    return error.what();
  }
  ADD_FAILURE() << "no kolo::Error";
  return {};
}

void expect_error(const std::function<void()>& call, const std::vector<std::string>& parts) {
  const std::string message = error_of(call);
  for (const std::string& part : parts) {
    EXPECT_NE(message.find(part), std::string::npos) << "'" << part << "' is not in: " << message;
  }
}

void expect_usable() {
  const auto value = torch::full({3}, kolo::rank() + 1.0, there());
  const auto sum = kolo::allreduce(value, {.op = ReduceOp::Sum});
  EXPECT_EQ(sum[0].item<double>(), kolo::size() * (kolo::size() + 1) / 2);
}

}  // namespace kolo::testing
