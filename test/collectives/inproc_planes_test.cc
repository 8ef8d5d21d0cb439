#include <gtest/gtest.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "control/inproc_control.h"
#include "data/inproc_data.h"
#include "plane_scenarios.h"
#include "support/threads.h"

namespace kolo::core {
namespace {

using testing::run_ranks;

class InprocPlanesTest : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Ranks, InprocPlanesTest, ::testing::Values(1, 2, 3, 4),
                         ::testing::PrintToStringParamName());

TEST_P(InprocPlanesTest, Collectives) {
  const int size = GetParam();
  for (int d = 0; d < kDataTypeCount; ++d) {
    const auto dtype = static_cast<DataType>(d);
    std::vector<std::int64_t> counts = {0, 1, 3, 1023};
    if (dtype == DataType::Float32 || dtype == DataType::Float16) counts.push_back(20'000);
    const auto hub = InprocDataHub::create(size);
    run_ranks(size, [&](int rank) {
      Doorbell doorbell;
      const auto plane = hub->connect(rank, doorbell);
      ASSERT_TRUE(plane->rings());
      scenarios::run_collectives(*plane, rank, size, dtype, counts, [&] { doorbell.wait(); });
    });
  }
}

TEST_P(InprocPlanesTest, Messages) {
  const int size = GetParam();
  const auto hub = InprocControlHub::create(size);
  run_ranks(size, [&](int rank) {
    Doorbell doorbell;
    const auto plane = hub->connect(rank, doorbell);
    ASSERT_TRUE(plane->rings());
    ASSERT_EQ(plane->topology().rank, rank);
    ASSERT_EQ(plane->topology().local_size, size);
    scenarios::run_messages(*plane, [&] { doorbell.wait(); });
  });
}

std::vector<std::byte> bytes(std::size_t count) { return std::vector<std::byte>(count); }

TEST(InprocControl, KeepsMessagesForWhoComesLater) {
  const auto hub = InprocControlHub::create(2);
  Doorbell early_bell;
  const auto early = hub->connect(0, early_bell);
  ASSERT_TRUE(early->send(1, bytes(3)).ok());
  ASSERT_TRUE(early->send(1, bytes(4)).ok());

  Doorbell late_bell;
  const auto late = hub->connect(1, late_bell);
  late_bell.wait();
  for (const std::size_t size : {3U, 4U}) {
    const Result<std::optional<Envelope>> next = late->receive();
    ASSERT_TRUE(next.ok() && next.value());
    EXPECT_EQ(next.value()->source, 0);
    EXPECT_EQ(next.value()->bytes.size(), size);
  }
  EXPECT_FALSE(late->receive().value());
}

TEST(InprocControl, DropsMessagesForWhoHasLeft) {
  const auto hub = InprocControlHub::create(2);
  Doorbell bells[2];
  const auto here = hub->connect(0, bells[0]);
  hub->connect(1, bells[1]).reset();
  EXPECT_TRUE(here->send(1, bytes(3)).ok());
  EXPECT_FALSE(here->sending());
}

/// Two ranks that one thread plays.
class InprocDataTest : public ::testing::Test {
 protected:
  Collective sum(int member, void* output) const {
    Collective c;
    c.ranks = {0, 1};
    c.member = member;
    c.channel = 3;
    c.sequence = 8;
    c.output = output;
    c.count = 2;
    return c;
  }

  Doorbell bells_[2];
  std::shared_ptr<InprocDataHub> hub_ = InprocDataHub::create(2);
  std::unique_ptr<DataPlane> planes_[2] = {hub_->connect(0, bells_[0]),
                                           hub_->connect(1, bells_[1])};
  float data_[2][3] = {{1, 2, 3}, {10, 20, 30}};
};

TEST_F(InprocDataTest, RingsWhenTheLastMemberHasStarted) {
  auto first = planes_[0]->start(sum(0, data_[0])).value();
  EXPECT_EQ(first->progress().value(), Operation::Progress::Waiting);
  auto second = planes_[1]->start(sum(1, data_[1])).value();
  bells_[0].wait();
  EXPECT_EQ(first->progress().value(), Operation::Progress::Done);
  EXPECT_EQ(second->progress().value(), Operation::Progress::Done);
  EXPECT_EQ(data_[0][1], 22);
  EXPECT_EQ(data_[1][1], 22);
}

TEST_F(InprocDataTest, SaysWhatDiffers) {
  auto first = planes_[0]->start(sum(0, data_[0])).value();
  Collective other = sum(1, data_[1]);
  other.count = 3;
  auto second = planes_[1]->start(other).value();
  for (Operation* operation : {first.get(), second.get()}) {
    const Result<Operation::Progress> progress = operation->progress();
    ASSERT_FALSE(progress.ok());
    const std::string& text = progress.status().message();
    EXPECT_NE(text.find("rank 0: allreduce of 2 float32"), std::string::npos) << text;
    EXPECT_NE(text.find("rank 1: allreduce of 3 float32"), std::string::npos) << text;
  }
  EXPECT_EQ(data_[0][0], 1);
}

TEST_F(InprocDataTest, FailsForAllWhenOneGivesUp) {
  auto first = planes_[0]->start(sum(0, data_[0])).value();
  first.reset();
  auto second = planes_[1]->start(sum(1, data_[1])).value();
  const Result<Operation::Progress> progress = second->progress();
  ASSERT_FALSE(progress.ok());
  EXPECT_NE(progress.status().message().find("rank 0 gave up"), std::string::npos);
  EXPECT_EQ(data_[1][0], 10);
}

TEST_F(InprocDataTest, FailsForWhoComesAfterOneThatGaveUpTwice) {
  for (int i = 0; i < 2; ++i) planes_[0]->start(sum(0, data_[0])).value().reset();
  auto second = planes_[1]->start(sum(1, data_[1])).value();
  EXPECT_FALSE(second->progress().ok());
}

TEST_F(InprocDataTest, RefusesWhatMakesNoSense) {
  Collective c = sum(0, data_[0]);
  c.ranks = {1, 0};
  EXPECT_FALSE(planes_[0]->start(c).ok());
  c = sum(1, data_[0]);
  EXPECT_FALSE(planes_[0]->start(c).ok());
  c = sum(0, data_[0]);
  c.kind = CollectiveKind::Barrier;
  EXPECT_FALSE(planes_[0]->start(c).ok());
  c.kind = CollectiveKind::Broadcast;
  c.root_member = 2;
  EXPECT_FALSE(planes_[0]->start(c).ok());
  c.kind = CollectiveKind::Allgather;
  c.counts = {1, 2};
  EXPECT_FALSE(planes_[0]->start(c).ok());
  c.kind = CollectiveKind::Reducescatter;
  EXPECT_FALSE(planes_[0]->start(c).ok());
  c.counts = {0, 2};
  EXPECT_FALSE(planes_[0]->start(c).ok());  // no input
  c.kind = CollectiveKind::Alltoall;
  c.input = data_[1];
  EXPECT_FALSE(planes_[0]->start(c).ok());  // no splits
  const std::vector<std::vector<std::int64_t>> wrong = {{1, 1}, {0}, {0, -1}};
  for (const std::vector<std::int64_t>& splits : wrong) {
    c.splits = splits;
    EXPECT_FALSE(planes_[0]->start(c).ok());
  }
  c.splits = {0, 1};
  EXPECT_TRUE(planes_[0]->start(c).ok());
}

// Rank 0 gives one element, of which rank 1 expects two.
TEST_F(InprocDataTest, SaysWhichSplitsDiffer) {
  const auto exchange = [this](int member, std::vector<std::int64_t> splits,
                               std::vector<std::int64_t> counts) {
    Collective c = sum(member, data_[member]);
    c.kind = CollectiveKind::Alltoall;
    c.splits = std::move(splits);
    c.counts = std::move(counts);
    c.count = c.counts[0] + c.counts[1];
    c.input = c.output;
    return planes_[member]->start(c).value();
  };
  auto first = exchange(0, {0, 1}, {0, 0});
  auto second = exchange(1, {0, 0}, {2, 0});
  const std::string text = first->progress().status().message();
  EXPECT_NE(text.find("counts 0,0, splits 0,1"), std::string::npos) << text;
  EXPECT_NE(text.find("counts 2,0, splits 0,0"), std::string::npos) << text;
}

}  // namespace
}  // namespace kolo::core
