#include <gtest/gtest.h>

#include <limits>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include "control/mpi_control.h"
#include "data/mpi_data.h"
#include "plane_scenarios.h"

namespace kolo::core {
namespace {

struct Setting {
  const char* name;
  MpiDataOptions options;
  std::vector<std::int64_t> counts;
  /// Also this, of Float32.
  std::int64_t large_count;
};

std::ostream& operator<<(std::ostream& out, const Setting& setting) { return out << setting.name; }

using Case = std::tuple<Setting, DataType>;

std::vector<DataType> all_types() {
  std::vector<DataType> all;
  for (int d = 0; d < kDataTypeCount; ++d) all.push_back(static_cast<DataType>(d));
  return all;
}

std::string name_of(const ::testing::TestParamInfo<Case>& test) {
  const auto& [setting, dtype] = test.param;
  return std::string(setting.name) + "_" + std::string(to_string(dtype));
}

class MpiDataPlaneTest : public ::testing::TestWithParam<Case> {};

INSTANTIATE_TEST_SUITE_P(
    Chunks, MpiDataPlaneTest,
    ::testing::Combine(
        ::testing::Values(
            Setting{"normal", {}, {0, 1, 3, 1023}, 1 << 20},
            Setting{"small", {.chunk_bytes = 1000, .direct_bytes = 64}, {65, 1023}, 50'001},
            Setting{"tiny", {.chunk_bytes = 1, .direct_bytes = 0}, {0, 1, 3, 70}, 300}),
        ::testing::ValuesIn(all_types())),
    name_of);

TEST_P(MpiDataPlaneTest, Collectives) {
  const auto& [setting, dtype] = GetParam();
  const mpi::Session session = mpi::Session::open().value();
  const auto plane = MpiDataPlane::create(session, setting.options).value();
  ASSERT_FALSE(plane->rings());
  std::vector<std::int64_t> counts = setting.counts;
  if (dtype == DataType::Float32) counts.push_back(setting.large_count);
  const Topology topology = session.topology().value();
  scenarios::run_collectives(*plane, topology.rank, topology.size, dtype, counts,
                             std::this_thread::yield);
}

class MpiTest : public ::testing::Test {
 protected:
  Collective sum(std::vector<float>& data) const {
    Collective c;
    for (int rank = 0; rank < topology_.size; ++rank) c.ranks.push_back(rank);
    c.member = topology_.rank;
    c.output = data.data();
    c.count = static_cast<std::int64_t>(data.size());
    return c;
  }

  mpi::Session session_ = mpi::Session::open().value();
  Topology topology_ = session_.topology().value();
};

TEST_F(MpiTest, Topology) {
  int rank = -1;
  int size = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  EXPECT_EQ(topology_.rank, rank);
  EXPECT_EQ(topology_.size, size);
  // The tests run on one host.
  EXPECT_EQ(topology_.local_rank, rank);
  EXPECT_EQ(topology_.local_size, size);
  EXPECT_EQ(topology_.cross_rank, 0);
  EXPECT_EQ(topology_.cross_size, 1);
  EXPECT_TRUE(topology_.with_rank_0);
  EXPECT_GE(session_.thread_level(), MPI_THREAD_SERIALIZED);
}

TEST_F(MpiTest, Messages) {
  const auto plane = MpiControlPlane::create(session_).value();
  EXPECT_FALSE(plane->rings());
  scenarios::run_messages(*plane, std::this_thread::yield);
}

TEST_F(MpiTest, DropsMessagesThatNobodyReceives) {
  const auto plane = MpiControlPlane::create(session_).value();
  const std::vector<std::byte> large(1 << 20);
  for (int peer = 0; peer < topology_.size; ++peer) {
    if (peer == topology_.rank) continue;
    ASSERT_TRUE(plane->send(peer, large).ok());
    EXPECT_TRUE(plane->sending());
  }
}

// Only rank 0 takes part, then thinks better of it.
TEST_F(MpiTest, GivesUpOperations) {
  for (const std::size_t count : {100U, 4'000U, 3'000'000U}) {
    const auto plane = MpiDataPlane::create(session_).value();
    std::vector<float> data(count);
    if (topology_.rank != 0) continue;
    auto operation = plane->start(sum(data)).value();
    EXPECT_EQ(operation->progress().value() == Operation::Progress::Done, topology_.size == 1);
  }
}

TEST_F(MpiTest, RefusesChannelsBeyondTheTags) {
  const auto plane = MpiDataPlane::create(session_).value();
  std::vector<float> data(1);
  Collective c = sum(data);
  c.channel = std::numeric_limits<ChannelId>::max();
  const auto started = plane->start(c);
  ASSERT_FALSE(started.ok());
  EXPECT_NE(started.status().message().find("channel 4294967295"), std::string::npos);
}

// The root sends more than the others expect.
TEST_F(MpiTest, ErrorsNameThePeer) {
  const auto plane = MpiDataPlane::create(session_).value();
  std::vector<float> data(topology_.rank == 0 ? 8 : 4);
  Collective c = sum(data);
  c.kind = CollectiveKind::Broadcast;
  const auto operation = plane->start(c).value();
  Result<Operation::Progress> progress = operation->progress();
  if (topology_.rank > 2) return;  // 3's parent in the tree is 2, and sends nothing
  while (progress.ok() && progress.value() != Operation::Progress::Done) {
    progress = operation->progress();
  }
  if (topology_.rank == 0) {
    EXPECT_TRUE(progress.ok());
  } else {
    ASSERT_FALSE(progress.ok());
    EXPECT_EQ(progress.status().message().find("receiving from rank 0: "), 0U)
        << progress.status().message();
  }
}

}  // namespace
}  // namespace kolo::core
