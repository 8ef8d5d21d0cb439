#include "engine/executor.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "data/inproc_data.h"

namespace kolo::core {
namespace {

using ::testing::HasSubstr;

/// What data planes allow a channel.
constexpr std::size_t kMostInFlight = 64;
constexpr std::size_t kMostBuffers = 4;
constexpr std::size_t kAll = std::numeric_limits<std::size_t>::max();

/// Adds 1 to each float32, whenever it pleases.
class FakePlane final : public DataPlane {
 public:
  struct Flight {
    std::size_t bytes = 0;
    bool done = false;
  };

  explicit FakePlane(std::uint64_t seed) : random(seed) {}

  Result<std::unique_ptr<Operation>> start(const Collective& collective) override {
    EXPECT_EQ(collective.sequence, next_sequence[collective.channel]++);
    if (collective.sequence == fail_start) return Status::error("no start");
    const auto flight = std::make_shared<Flight>();
    flight->bytes = static_cast<std::size_t>(collective.count) * size_of(collective.dtype);
    flights[collective.channel].push_back(flight);
    most_in_flight = std::max(most_in_flight, count(collective.channel));
    most_bytes = std::max(most_bytes, bytes(collective.channel));
    return std::unique_ptr<Operation>(std::make_unique<FakeOperation>(*this, collective, flight));
  }
  bool rings() const override { return true; }

  std::size_t count(ChannelId channel) const {
    const auto& all = flights.at(channel);
    return static_cast<std::size_t>(
        std::ranges::count(all, false, [](const auto& flight) { return flight->done; }));
  }
  std::size_t bytes(ChannelId channel) const {
    std::size_t sum = 0;
    for (const auto& flight : flights.at(channel)) sum += flight->done ? 0 : flight->bytes;
    return sum;
  }

  std::mt19937_64 random;
  std::uint64_t fail_start = kAll;
  std::uint64_t fail_progress = kAll;
  ChannelId stuck_channel = static_cast<ChannelId>(-1);
  std::map<ChannelId, std::uint64_t> next_sequence;
  std::map<ChannelId, std::vector<std::shared_ptr<Flight>>> flights;
  std::size_t most_in_flight = 0;
  std::size_t most_bytes = 0;

 private:
  class FakeOperation final : public Operation {
   public:
    FakeOperation(FakePlane& plane, Collective collective, std::shared_ptr<Flight> flight)
        : plane_(plane), collective_(std::move(collective)), flight_(std::move(flight)) {}

    Result<Progress> progress() override {
      EXPECT_FALSE(flight_->done);
      if (collective_.channel == plane_.stuck_channel) return Progress::Waiting;
      if (collective_.sequence == plane_.fail_progress) return Status::error("no progress");
      const auto chance = plane_.random() % 16;
      if (chance > 1) return chance == 2 ? Progress::Moved : Progress::Waiting;
      auto* const numbers = static_cast<float*>(collective_.output);
      for (std::int64_t i = 0; i < collective_.count; ++i) numbers[i] += 1;
      flight_->done = true;
      return Progress::Done;
    }

    std::vector<int> missing() const override { return {1}; }

   private:
    FakePlane& plane_;
    const Collective collective_;
    const std::shared_ptr<Flight> flight_;
  };
};

/// One tensor of float32.
struct Tensor {
  std::vector<float> input;
  std::vector<float> output;
  std::shared_ptr<Work> work = std::make_shared<Work>();

  AgreedSubmission agreed(const std::string& name, ChannelId channel = kWorldChannel) {
    AgreedSubmission agreed;
    agreed.submission = make_submission({});
    Submission& submission = *agreed.submission;
    submission.channel = channel;
    submission.request.name = name;
    submission.request.shape = {static_cast<std::int64_t>(input.size())};
    submission.input = input.data();
    submission.output = output.data();
    submission.work = work;
    return agreed;
  }
};

std::vector<Tensor> tensors(std::size_t count, std::size_t largest, std::mt19937_64& random) {
  std::vector<Tensor> all(count);
  for (Tensor& tensor : all) {
    tensor.input.resize(random() % (largest + 1));
    for (float& value : tensor.input) value = static_cast<float>(random() % 1000);
    tensor.output.resize(tensor.input.size());
  }
  return all;
}

void enqueue(Executor& executor, ChannelId channel, AgreedSubmission alone) {
  std::vector<AgreedSubmission> batch;
  batch.push_back(std::move(alone));
  executor.enqueue(channel, std::move(batch));
}

void enqueue(Executor& executor, std::vector<Tensor>& all, std::size_t batch) {
  for (std::size_t begin = 0; begin < all.size(); begin += batch) {
    std::vector<AgreedSubmission> agreed;
    for (std::size_t i = begin; i < std::min(begin + batch, all.size()); ++i) {
      agreed.push_back(all[i].agreed(fmt::format("t{}", i)));
    }
    executor.enqueue(kWorldChannel, std::move(agreed));
  }
}

void expect_one_more(const std::vector<Tensor>& all) {
  for (const Tensor& tensor : all) {
    ASSERT_TRUE(tensor.work->done());
    ASSERT_TRUE(tensor.work->wait().ok());
    std::vector<float> expected = tensor.input;
    for (float& value : expected) value += 1;
    ASSERT_EQ(tensor.output, expected);
  }
}

/// Until nothing is left.
void finish(Executor& executor) {
  while (!executor.idle()) ASSERT_TRUE(executor.progress().ok());
}

class ExecutorTest : public ::testing::TestWithParam<std::size_t> {};
INSTANTIATE_TEST_SUITE_P(Threshold, ExecutorTest, ::testing::Values(0, 64, 1024, 1 << 20),
                         ::testing::PrintToStringParamName());

TEST_P(ExecutorTest, CompletesInAnyOrderWithinItsLimits) {
  constexpr int kMostElements = 16;
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    FakePlane plane(seed);
    Executor executor(plane, GetParam(), nullptr);
    executor.add_channel(kWorldChannel, {0}, 0);
    std::vector<Tensor> all = tensors(400, kMostElements, plane.random);
    enqueue(executor, all, 100);
    finish(executor);
    expect_one_more(all);
    EXPECT_LE(plane.most_in_flight, kMostInFlight);
    if (GetParam() >= 1024) {
      // The last tensor of each batch may run alone, outside of a buffer.
      EXPECT_LE(plane.most_bytes, kMostBuffers * GetParam() + 4 * kMostElements * sizeof(float));
    }
    if (GetParam() == 0) {
      EXPECT_EQ(plane.flights[kWorldChannel].size(), all.size());
      EXPECT_GT(plane.most_in_flight, 1U);
    }
  }
}

// Buffers as large as the threshold, of which there may be four.
TEST(Executor, FullBuffers) {
  for (const std::size_t threshold : {1024U, 1U << 20}) {
    FakePlane plane(1);
    Executor executor(plane, threshold, nullptr);
    executor.add_channel(kWorldChannel, {0}, 0);
    std::vector<Tensor> all = tensors(60, 0, plane.random);
    for (Tensor& tensor : all) {
      tensor.input.assign(threshold / sizeof(float) / 2, 1.0F);
      tensor.output = tensor.input;
    }
    enqueue(executor, all, all.size());
    finish(executor);
    expect_one_more(all);
    EXPECT_EQ(plane.flights[kWorldChannel].size(), 30U);
    EXPECT_EQ(plane.most_bytes, kMostBuffers * threshold);
  }
}

TEST_P(ExecutorTest, InPlace) {
  FakePlane plane(2);
  Executor executor(plane, GetParam(), nullptr);
  executor.add_channel(kWorldChannel, {0}, 0);
  std::vector<Tensor> all = tensors(50, 40, plane.random);
  std::vector<AgreedSubmission> batch;
  for (Tensor& tensor : all) {
    tensor.output = tensor.input;
    batch.push_back(tensor.agreed(fmt::format("t{}", batch.size())));
    batch.back().submission->input = tensor.output.data();
  }
  executor.enqueue(kWorldChannel, std::move(batch));
  finish(executor);
  expect_one_more(all);
}

TEST_P(ExecutorTest, ChannelsDoNotWaitForEachOther) {
  FakePlane plane(3);
  plane.stuck_channel = kWorldChannel;
  Executor executor(plane, GetParam(), nullptr);
  executor.add_channel(kWorldChannel, {0}, 0);
  executor.add_channel(7, {0}, 0);
  std::vector<Tensor> stuck = tensors(200, 16, plane.random);
  enqueue(executor, stuck, 1);
  std::vector<Tensor> free = tensors(200, 16, plane.random);
  for (Tensor& tensor : free) enqueue(executor, 7, tensor.agreed("free", 7));
  while (!free.back().work->done() ||
         !std::ranges::all_of(free, [](const Tensor& tensor) { return tensor.work->done(); })) {
    ASSERT_TRUE(executor.progress().ok());
  }
  expect_one_more(free);
  EXPECT_FALSE(executor.idle());
  EXPECT_LE(plane.flights[kWorldChannel].size(), kMostInFlight);
  plane.stuck_channel = 9;
  finish(executor);
  expect_one_more(stuck);
}

TEST_P(ExecutorTest, FailureCompletesEverything) {
  for (const bool at_start : {true, false}) {
    FakePlane plane(4);
    (at_start ? plane.fail_start : plane.fail_progress) = 3;
    Executor executor(plane, GetParam(), nullptr);
    executor.add_channel(kWorldChannel, {0}, 0);
    std::vector<Tensor> all = tensors(500, 16, plane.random);
    enqueue(executor, all, 25);
    Result<bool> progressed = true;
    while (progressed.ok()) {
      ASSERT_FALSE(executor.idle());
      progressed = executor.progress();
    }
    EXPECT_EQ(progressed.status().message(), at_start ? "no start" : "no progress");
    executor.fail("all is lost");
    EXPECT_TRUE(executor.idle());
    std::size_t failed = 0;
    for (std::size_t i = 0; i < all.size(); ++i) {
      ASSERT_TRUE(all[i].work->done());
      const Status status = all[i].work->wait();
      if (status.ok()) continue;
      ++failed;
      EXPECT_EQ(status.message(), fmt::format("allreduce 't{}': all is lost", i));
    }
    EXPECT_GT(failed, 400U);
  }
}

TEST_P(ExecutorTest, EndsAChannelWhereAMemberLeft) {
  FakePlane plane(6);
  plane.stuck_channel = 5;
  Executor executor(plane, GetParam(), nullptr);
  executor.add_channel(5, {3, 8}, 0);
  std::vector<Tensor> all = tensors(40, 16, plane.random);
  const auto enqueue_one = [&](std::size_t i) {
    enqueue(executor, 5, all[i].agreed(fmt::format("t{}", i), 5));
  };
  for (std::size_t i = 0; i < 30; ++i) enqueue_one(i);
  ASSERT_TRUE(executor.progress().ok());
  const auto stalls = executor.stalled(Clock::now(), std::chrono::seconds(0));
  ASSERT_EQ(stalls.size(), 1U);
  EXPECT_EQ(stalls[0].operation, "allreduce 't0'");
  EXPECT_EQ(stalls[0].present, std::vector<int>{3});
  EXPECT_EQ(stalls[0].missing, std::vector<int>{8});
  executor.end(5, 7, "rank 8 left");
  executor.end(5, 9, "too late");
  for (std::size_t i = 30; i < 40; ++i) enqueue_one(i);
  for (std::size_t i = 7; i < 40; ++i) {
    ASSERT_TRUE(all[i].work->done());
    EXPECT_EQ(all[i].work->wait().message(), fmt::format("allreduce 't{}': rank 8 left", i));
  }
  plane.stuck_channel = 9;
  finish(executor);
  all.resize(7);
  expect_one_more(all);
}

// Each thread of ranks played in turn, on the plane that is its own oracle.
TEST_P(ExecutorTest, SumsOfThreeRanks) {
  constexpr int kSize = 3;
  const auto hub = InprocDataHub::create(kSize);
  Doorbell doorbell;
  std::vector<std::unique_ptr<DataPlane>> planes;
  std::vector<std::unique_ptr<Executor>> executors;
  std::vector<std::vector<Tensor>> of_rank;
  for (int rank = 0; rank < kSize; ++rank) {
    planes.push_back(hub->connect(rank, doorbell));
    executors.push_back(std::make_unique<Executor>(*planes.back(), GetParam(), nullptr));
    executors.back()->add_channel(kWorldChannel, {0, 1, 2}, rank);
    std::mt19937_64 same(5);
    of_rank.push_back(tensors(300, 50, same));
    for (Tensor& tensor : of_rank.back()) {
      for (float& value : tensor.input) value += 1000.0F * static_cast<float>(rank);
    }
    enqueue(*executors.back(), of_rank.back(), 40);
  }
  const auto busy = [](const auto& executor) { return !executor->idle(); };
  while (std::ranges::any_of(executors, busy)) {
    for (const auto& executor : executors) ASSERT_TRUE(executor->progress().ok());
  }
  for (int rank = 0; rank < kSize; ++rank) {
    const std::vector<Tensor>& own = of_rank[static_cast<std::size_t>(rank)];
    for (std::size_t t = 0; t < own.size(); ++t) {
      for (std::size_t i = 0; i < own[t].output.size(); ++i) {
        ASSERT_EQ(own[t].output[i], 3 * of_rank[0][t].input[i] + 3000);
      }
    }
  }
}

TEST(Executor, TellsWhenAllHadCome) {
  const auto hub = InprocDataHub::create(2);
  Doorbell doorbell;
  std::vector<std::unique_ptr<DataPlane>> planes;
  std::vector<std::unique_ptr<Executor>> executors;
  for (int rank = 0; rank < 2; ++rank) {
    planes.push_back(hub->connect(rank, doorbell));
    executors.push_back(std::make_unique<Executor>(*planes.back(), 0, nullptr));
    executors.back()->add_channel(kWorldChannel, {0, 1}, rank);
  }
  const auto progress = [&](std::size_t rank) { ASSERT_TRUE(executors[rank]->progress().ok()); };
  for (const std::size_t late : {0U, 1U}) {
    std::vector<Tensor> own(2, {.input = {1, 2}, .output = {1, 2}});
    const auto start = [&](std::size_t rank) {
      AgreedSubmission agreed = own[rank].agreed("t");
      if (rank == 0) agreed.submission->times = std::make_shared<OperationTimes>();
      const auto times = agreed.submission->times;
      enqueue(*executors[rank], kWorldChannel, std::move(agreed));
      progress(rank);
      return times;
    };
    const auto early_times = start(1 - late);
    progress(1 - late);
    const Clock::time_point before = Clock::now();
    const auto late_times = start(late);
    for (std::size_t rank = 0; rank < 2; ++rank) finish(*executors[rank]);
    const auto& times = late == 0 ? late_times : early_times;
    ASSERT_TRUE(own[0].work->done());
    EXPECT_LE(before, times->met);
    EXPECT_LE(times->met, times->done);
    EXPECT_LE(times->done, Clock::now());
  }
}

}  // namespace
}  // namespace kolo::core
