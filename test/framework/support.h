#pragma once

/// What the tests of the LibTorch side share.

#include <gtest/gtest.h>
#include <kolo/kolo.h>
#include <torch/torch.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace kolo::testing {

/// What KOLO_TEST_DEVICE says: the CPU, or, if it is "cuda", this rank's GPU.
torch::Device device();

/// Options of a tensor there.
torch::TensorOptions there(torch::ScalarType dtype = torch::kFloat32);

/// After kolo::init(), single-threaded, with the same random numbers on all ranks; already so when
/// the members of a derived fixture are made. Skips where a GPU is asked for and there is none.
class FrameworkTest : public ::testing::Test {
 protected:
  FrameworkTest();
  void SetUp() override;
};

inline constexpr torch::ScalarType kDtypes[] = {
    torch::kUInt8,   torch::kInt8,     torch::kInt16,   torch::kInt32,   torch::kInt64,
    torch::kFloat16, torch::kBFloat16, torch::kFloat32, torch::kFloat64, torch::kBool};

/// NCCL has no int16.
bool can_be_reduced(torch::ScalarType dtype);

std::vector<int> all_ranks();
int last_rank();

/// Random numbers on the device, that depend on the seeds alone: every rank can compute every other
/// rank's data.
torch::Tensor random(torch::IntArrayRef shape, std::initializer_list<int> seeds,
                     torch::ScalarType dtype = torch::kFloat64);

/// Blocking, by hand, so that a broken all-reduce does not hide.
std::vector<torch::Tensor> gather(const torch::Tensor& tensor);

/// Bit by bit.
bool identical(const torch::Tensor& a, const torch::Tensor& b);

/// Whether all ranks hold the same bits. Collective.
bool identical_on_all_ranks(const torch::Tensor& tensor);

/// The largest difference, relative to the largest number.
double relative_difference(const torch::Tensor& a, const torch::Tensor& b);

/// `call` must end with a kolo::Error; gives its message ("" when it does not, and the test has
/// failed).
std::string error_of(const std::function<void()>& call);

/// As above, and the message must contain all `parts`.
void expect_error(const std::function<void()>& call, const std::vector<std::string>& parts);

/// An all-reduce gives the right value: Kolo has survived what came before. Collective.
void expect_usable();

}  // namespace kolo::testing
