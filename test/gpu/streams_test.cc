// Who submits, who waits, and who drops memory, in streams of their own; and what never waits for
// the GPU.

#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include <array>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "framework/training.h"
#include "gpu/gate.h"

namespace kolo::testing {
namespace {

constexpr std::int64_t kElements = 1 << 20;

class StreamsTest : public FrameworkTest {
 protected:
  void SetUp() override {
    FrameworkTest::SetUp();
    if (IsSkipped()) return;
    big_ = torch::rand({4096, 4096}, there());
    for (auto& stream : streams_) stream = c10::cuda::getStreamFromPool(false, device().index());
  }

  /// Makes what follows in the current stream late, so that a wait that is missing shows.
  void be_busy() const {
    torch::Tensor product = big_;
    for (int i = 0; i < 40; ++i) product = torch::mm(product, big_).div_(4096);
  }

  c10::cuda::CUDAStreamGuard in_stream(std::size_t number) const {
    return c10::cuda::CUDAStreamGuard(*streams_.at(number));
  }

  torch::Tensor big_;
  std::array<std::optional<c10::cuda::CUDAStream>, 3> streams_;
};

double sum_of_ranks() { return kolo::size() * (kolo::size() + 1) / 2.0; }

void expect_all(const torch::Tensor& tensor, double value) {
  const torch::Tensor host = tensor.cpu();
  EXPECT_EQ(host.min().item<double>(), value);
  EXPECT_EQ(host.max().item<double>(), value);
}

TEST_F(StreamsTest, AnOperationFollowsTheStreamThatSubmits) {
  for (int i = 0; i < 4; ++i) {
    torch::Tensor tensor = torch::zeros({kElements}, there());
    torch::cuda::synchronize(device().index());
    std::optional<Work> work;
    {
      const auto guard = in_stream(0);
      be_busy();
      tensor.fill_(kolo::rank() + 1);
      work = kolo::allreduce_async_(tensor, {.op = ReduceOp::Sum});
    }
    const auto guard = in_stream(1);
    work->wait();
    expect_all(tensor * 1, sum_of_ranks());
  }
}

TEST_F(StreamsTest, ResultsAreThereForEachStreamThatWaits) {
  torch::Tensor tensor;
  std::optional<Work> work, rows;
  {
    const auto guard = in_stream(0);
    be_busy();
    tensor = torch::full({kElements}, kolo::rank() + 1.0, there());
    // Not contiguous: the result is copied where it belongs by who waits first.
    torch::Tensor column = tensor.view({-1, 2}).select(1, 0);
    work = kolo::allreduce_async_(column, {.op = ReduceOp::Sum});
    rows = kolo::allgather_async(tensor.slice(0, 0, kolo::rank() + 3).clone());
  }
  for (const std::size_t number : {1U, 2U}) {
    const auto guard = in_stream(number);
    expect_all(work->result() * 1, sum_of_ranks());
    const torch::Tensor all = rows->result() * 1;
    EXPECT_EQ(all.size(0), kolo::size() * (kolo::size() - 1) / 2 + 3 * kolo::size());
    expect_all(all.slice(0, 0, 3), 1);
    expect_all(all.slice(0, -1), kolo::size());
  }
}

// A host that waited for the GPU would do so for ever: the watchdog would show where.
TEST_F(StreamsTest, TheHostWaitsForNoGpu) {
  for (const bool first_time : {true, false}) {
    std::optional<Gate> gate;
    if (!first_time) gate.emplace();
    torch::Tensor tensor = torch::full({kElements}, kolo::rank() + 1.0, there());
    Work work = kolo::allreduce_async_(tensor, {.op = ReduceOp::Sum});
    work.wait();
    if (gate) {
      EXPECT_FALSE(work.done()) << "the GPU has not come to it";
      gate->open();
    }
    work.synchronize();
    EXPECT_TRUE(work.done());
    expect_all(tensor, sum_of_ranks());
  }
}

TEST_F(StreamsTest, WorkAndTensorsThatAreDroppedAtOnce) {
  std::vector<torch::Tensor> results;
  for (int i = 0; i < 50; ++i) {
    const auto guard = in_stream(static_cast<std::size_t>(i) % 3);
    if (i % 10 == 0) be_busy();
    torch::Tensor tensor = torch::full({kElements}, i, there());
    (void)kolo::allgather_async(tensor.clone());
    (void)kolo::allreduce_async_(tensor, {.op = ReduceOp::Max});
    // Of LibTorch's memory that others have just let go of.
    results.push_back(kolo::allreduce(torch::full({kElements}, i, there()), {.op = ReduceOp::Max}));
  }
  torch::cuda::synchronize(device().index());
  for (int i = 0; i < 50; ++i) expect_all(results[static_cast<std::size_t>(i)], i);
}

TEST_F(StreamsTest, KolosMemoryIsUsedAgainWhenTheGpuIsDoneWithIt) {
  torch::Tensor sum = torch::zeros({kElements}, there());
  for (int i = 1; i <= 20; ++i) {
    torch::Tensor tensor = kolo::empty({kElements}, there());
    tensor.fill_(i);
    be_busy();
    sum += tensor;
  }
  expect_all(sum, 210);
}

TEST_F(StreamsTest, SeveralThreadsInTheirStreams) {
  const auto work = [this](std::size_t number) {
    const auto guard = in_stream(number);
    for (int i = 0; i < 20; ++i) {
      torch::Tensor tensor = torch::full({50000}, i + kolo::rank(), there());
      kolo::allreduce_(tensor, {.name = "thread." + std::to_string(number), .op = ReduceOp::Max});
      expect_all(tensor, i + kolo::size() - 1);
    }
  };
  std::thread other(work, 1U);
  work(2);
  other.join();
}

// Gradients come in the stream that was current when the optimizer was wrapped, or the forward ran.
TEST_F(StreamsTest, TrainingInOtherStreamsThanTheOptimizersOwn) {
  Loop loop{.body = [this](Training& run, int step) {
    const auto guard = in_stream(static_cast<std::size_t>(step) % 3);
    if (step % 2 == 0) run.optimizer().zero_grad();
    if (step % 2 == 1) {
      for (torch::Tensor& parameter : run.net->parameters()) parameter.mutable_grad().reset();
    }
    if (step < 6) be_busy();
    run.loss(step).backward();
    run.optimizer().step();
    // The next stream is another one.
    torch::cuda::synchronize(device().index());
  }};
  expect_as_in_one_process(loop);
}

TEST_F(StreamsTest, BackwardLeavesTheGpuBehind) {
  if (kolo::size() == 1) return;
  Training run(true, sgd(), {},
               [](Net& net) { return std::vector<std::shared_ptr<torch::nn::Module>>{net.ptr()}; });
  // The first steps make communicators, adopt groups, and allocate memory.
  for (int step = 0; step < 6; ++step) {
    run.optimizer().zero_grad();
    const torch::Tensor loss = run.loss(step);
    torch::cuda::synchronize(device().index());
    std::optional<Gate> gate;
    if (step == 5) gate.emplace();
    loss.backward();
    // It is here although the GPU has computed no gradient; or the watchdog shows where it waits.
    if (gate) gate->open();
    run.optimizer().step();
  }
  EXPECT_TRUE(identical_on_all_ranks(flat_parameters(*run.net)));
}

}  // namespace
}  // namespace kolo::testing
