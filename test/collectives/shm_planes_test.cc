#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "control/shm_control.h"
#include "data/shm_data.h"
#include "plane_scenarios.h"
#include "support/thread_bootstrap.h"
#include "support/threads.h"

namespace kolo::core {
namespace {

using scenarios::Memory;
using testing::Meeting;
using testing::run_ranks;
using testing::ThreadBootstrap;

constexpr std::size_t kCapacity = std::size_t{256} << 20;

std::shared_ptr<shm::Host> join(Meeting& meeting, int rank, bool same_process = true) {
  ThreadBootstrap bootstrap(meeting, rank, same_process);
  // Global ranks differ from local ones where it does not matter for a scenario.
  auto host = shm::Host::join(bootstrap, {.global_rank = rank, .capacity = kCapacity});
  EXPECT_TRUE(host.ok()) << host.status().message();
  return std::move(host).value();
}

struct Setting {
  const char* name;
  ShmDataOptions options;
  std::vector<std::int64_t> counts;
  /// Also this, of Float32.
  std::int64_t large_count;
};

const Setting kNormal{"normal", {}, {0, 1, 3, 1023}, 200'000};
const Setting kSmall{
    "small",
    {.chunk_bytes = 1000, .flat_bytes = 64, .many_members = 3, .piece_bytes = 4096},
    {0, 1, 64, 65, 1023},
    20'001};
const Setting kTiny{"tiny", {.chunk_bytes = 1, .flat_bytes = 0, .piece_bytes = 1}, {0, 1, 70}, 300};

using Case = std::tuple<Setting, int, Memory>;

class ShmPlanesTest : public ::testing::TestWithParam<Case> {};

std::string name_of(const ::testing::TestParamInfo<Case>& test) {
  const auto& [setting, size, memory] = test.param;
  const char* const place = memory == Memory::Private ? "private"
                            : memory == Memory::Plane ? "arena"
                                                      : "mixed";
  return std::string(setting.name) + "_" + std::to_string(size) + "_" + place;
}

INSTANTIATE_TEST_SUITE_P(
    Chunks, ShmPlanesTest,
    ::testing::Combine(::testing::Values(kNormal, kSmall, kTiny), ::testing::Values(1, 2, 3, 5),
                       ::testing::Values(Memory::Private, Memory::Plane, Memory::Mixed)),
    name_of);

TEST_P(ShmPlanesTest, Collectives) {
  // Of each size of an element, and each way to scale; the others are up to the kernel.
  const auto& [setting, size, memory] = GetParam();
  for (const DataType dtype : {DataType::UInt8, DataType::Float16, DataType::Float32}) {
    std::vector<std::int64_t> counts = setting.counts;
    if (dtype == DataType::Float32) counts.push_back(setting.large_count);
    Meeting meeting(size);
    run_ranks(size, [&, &setting = setting, &memory = memory, &size = size](int rank) {
      const auto host = join(meeting, rank);
      Doorbell doorbell;
      doorbell.move_to(host->own_doorbell());
      ShmDataPlane plane(host, setting.options);
      ASSERT_TRUE(plane.rings());
      scenarios::run_collectives(
          plane, rank, size, dtype, counts, [&] { doorbell.wait(); }, memory);
    });
  }
}

constexpr int kPlayers = 3;

std::vector<std::shared_ptr<DataPlane>> connect_players(const ShmDataOptions& options) {
  std::vector<std::shared_ptr<DataPlane>> planes(kPlayers);
  Meeting meeting(kPlayers);
  run_ranks(kPlayers, [&](int rank) {
    planes[static_cast<std::size_t>(rank)] =
        std::make_shared<ShmDataPlane>(join(meeting, rank), options);
  });
  return planes;
}

Collective bytes_of_all_players(CollectiveKind kind, std::int64_t each) {
  Collective c;
  c.kind = kind;
  c.dtype = DataType::UInt8;
  c.ranks = {0, 1, 2};
  c.root_member = 1;  // others begin before and after it
  c.count = each;
  if (kind != CollectiveKind::Allreduce && kind != CollectiveKind::Broadcast) {
    c.counts.assign(kPlayers, each);
    c.count = kPlayers * each;
  }
  if (kind == CollectiveKind::Alltoall) c.splits = c.counts;
  return c;
}

class ShmGivingUpTest : public ::testing::TestWithParam<CollectiveKind> {};
INSTANTIATE_TEST_SUITE_P(Kinds, ShmGivingUpTest,
                         ::testing::Values(CollectiveKind::Allreduce, CollectiveKind::Broadcast,
                                           CollectiveKind::Allgather, CollectiveKind::Reducescatter,
                                           CollectiveKind::Alltoall),
                         [](const auto& test) { return std::string(to_string(test.param)); });

// Of large vectors, in steps; of small ones so many that a ring does not hold their signals.
TEST_P(ShmGivingUpTest, NobodyWaitsOn) {
  scenarios::GivingUp play;
  ShmDataOptions options = kSmall.options;
  const auto try_all_moments = [&play, &options] {
    for (play.quitter = 0; play.quitter < kPlayers; ++play.quitter) {
      for (const int turns : {0, 1, 2, 5}) {
        play.turns = turns;
        play.sleeper = std::nullopt;
        play.early = false;
        scenarios::run_giving_up(connect_players(options), play);
        for (int sleeper = 0; sleeper < kPlayers; ++sleeper) {
          play.sleeper = sleeper;
          for (const bool early : {false, true}) {
            play.early = early;
            scenarios::run_giving_up(connect_players(options), play);
          }
        }
      }
    }
  };
  play.collective = bytes_of_all_players(GetParam(), 5000);
  for (const Memory memory : {Memory::Private, Memory::Plane}) {
    play.memory = memory;
    try_all_moments();
  }
  play.memory = Memory::Private;
  play.collective = bytes_of_all_players(GetParam(), kSmall.options.flat_bytes);
  play.operations = 700;
  try_all_moments();
  if (GetParam() != CollectiveKind::Allreduce) return;
  options.many_members = kPlayers + 1;
  try_all_moments();
}

/// One operation of all players, begun by one after the other.
class Play {
 public:
  explicit Play(const Collective& collective) : collective_(collective) {}

  void start(int rank) {
    std::vector<std::uint8_t>& own = memory_[static_cast<std::size_t>(rank)];
    own.assign(static_cast<std::size_t>(collective_.count), static_cast<std::uint8_t>(rank + 1));
    collective_.member = rank;
    collective_.output = own.data();
    operations_[static_cast<std::size_t>(rank)] =
        planes_[static_cast<std::size_t>(rank)]->start(collective_).value();
  }

  /// Of one that has done what it can.
  std::vector<int> missing(int rank) {
    Operation& operation = *operations_[static_cast<std::size_t>(rank)];
    while (operation.progress().value() == Operation::Progress::Moved) continue;
    EXPECT_EQ(operation.progress().value(), Operation::Progress::Waiting);
    return operation.missing();
  }

  void finish(std::uint8_t expected) {
    const auto is_over = [](const auto& operation) { return operation == nullptr; };
    while (!std::ranges::all_of(operations_, is_over)) {
      for (auto& operation : operations_) {
        if (is_over(operation)) continue;
        if (operation->progress().value() == Operation::Progress::Done) operation.reset();
      }
    }
    for (const auto& own : memory_) {
      EXPECT_EQ(own, std::vector<std::uint8_t>(own.size(), expected));
    }
  }

 private:
  const std::vector<std::shared_ptr<DataPlane>> planes_ = connect_players(kSmall.options);
  Collective collective_;
  std::array<std::vector<std::uint8_t>, kPlayers> memory_;
  std::array<std::unique_ptr<Operation>, kPlayers> operations_;
};

// Small all-reduces of many members go by way of the first one.
TEST(ShmGatheringTest, WhoIsMissingIsKnown) {
  Play play(bytes_of_all_players(CollectiveKind::Allreduce, 4));
  play.start(2);
  EXPECT_EQ(play.missing(2), std::vector<int>{0});
  play.start(0);
  EXPECT_EQ(play.missing(0), std::vector<int>{1});
  EXPECT_EQ(play.missing(2), std::vector<int>());
  play.start(1);
  EXPECT_EQ(play.missing(1), std::vector<int>());
  play.finish(1 + 2 + 3);
}

// In a broadcast bytes go from the root alone, in more steps than it may be ahead.
TEST(ShmBroadcastTest, OnlyTheRootIsEverMissing) {
  Play play(bytes_of_all_players(CollectiveKind::Broadcast, 20'000));
  play.start(2);
  EXPECT_EQ(play.missing(2), std::vector<int>{1});
  play.start(1);
  EXPECT_EQ(play.missing(1), std::vector<int>());
  EXPECT_EQ(play.missing(2), std::vector<int>());
  play.start(0);
  EXPECT_EQ(play.missing(0), std::vector<int>());
  play.finish(2);
}

class ShmControlTest : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Ranks, ShmControlTest, ::testing::Values(1, 2, 3, 5),
                         ::testing::PrintToStringParamName());

TEST_P(ShmControlTest, Messages) {
  const int size = GetParam();
  Meeting meeting(size);
  run_ranks(size, [&](int rank) {
    const auto host = join(meeting, rank);
    Doorbell doorbell;
    doorbell.move_to(host->own_doorbell());
    Topology topology;
    topology.rank = topology.local_rank = rank;
    topology.size = topology.local_size = size;
    ShmControlPlane plane(host, topology);
    ASSERT_TRUE(plane.rings());
    scenarios::run_messages(plane, [&] { doorbell.wait(); });
  });
}

}  // namespace
}  // namespace kolo::core
