// Hosts whose ranks are threads: each host a near plane, all of them a far one.

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "data/hierarchical_data.h"
#include "data/inproc_data.h"
#include "data/selector.h"
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

/// Of each rank, the lowest on its host.
using Layout = std::vector<int>;

enum class Near { Inproc, Shared };

/// The planes of a job.
class Hosts {
 public:
  Hosts(Layout layout, Near near, const HierarchicalOptions& options)
      : layout_(std::move(layout)), near_(near), options_(options) {
    for (const int host : layout_) {
      if (hubs_.contains(host)) continue;
      const auto ranks = static_cast<int>(std::ranges::count(layout_, host));
      hubs_[host] = InprocDataHub::create(size());
      meetings_[host] = std::make_unique<Meeting>(ranks);
    }
  }

  int size() const { return static_cast<int>(layout_.size()); }

  std::vector<int> ranks_beside(int rank) const {
    std::vector<int> ranks;
    for (int other = 0; other < size(); ++other) {
      if (host_of(other) == host_of(rank)) ranks.push_back(other);
    }
    return ranks;
  }

  /// On the rank's thread.
  std::shared_ptr<DataPlane> near(int rank, Doorbell& doorbell) {
    if (near_ == Near::Inproc) return hubs_.at(host_of(rank))->connect(rank, doorbell);
    const std::vector<int> ranks = ranks_beside(rank);
    const auto local = static_cast<int>(std::ranges::find(ranks, rank) - ranks.begin());
    ThreadBootstrap bootstrap(*meetings_.at(host_of(rank)), local);
    const auto host = shm::Host::join(bootstrap, {.global_rank = rank, .capacity = 256U << 20});
    EXPECT_TRUE(host.ok()) << host.status().message();
    doorbell.move_to(host.value()->own_doorbell());
    return std::make_shared<ShmDataPlane>(host.value());
  }

  std::unique_ptr<DataPlane> flat(int rank, Doorbell& doorbell) {
    return flat_->connect(rank, doorbell);
  }

  std::unique_ptr<DataPlane> hierarchical(int rank, std::shared_ptr<DataPlane> near,
                                          Doorbell& doorbell) {
    return std::make_unique<HierarchicalDataPlane>(std::move(near), far_->connect(rank, doorbell),
                                                   layout_, options_);
  }

 private:
  int host_of(int rank) const { return layout_[static_cast<std::size_t>(rank)]; }

  const Layout layout_;
  const Near near_;
  const HierarchicalOptions options_;
  std::map<int, std::shared_ptr<InprocDataHub>> hubs_;
  std::map<int, std::unique_ptr<Meeting>> meetings_;
  std::shared_ptr<InprocDataHub> far_ = InprocDataHub::create(size());
  std::shared_ptr<InprocDataHub> flat_ = InprocDataHub::create(size());
};

using Case = std::tuple<Layout, Near>;

std::string name_of(const ::testing::TestParamInfo<Case>& test) {
  const auto& [layout, near] = test.param;
  return fmt::format("{}_{}", fmt::join(layout, ""), near == Near::Inproc ? "inproc" : "shared");
}

class HierarchicalPlanesTest : public ::testing::TestWithParam<Case> {};

// In the order of hosts, one by one, and neither; hosts with as many ranks, and not.
INSTANTIATE_TEST_SUITE_P(
    Layouts, HierarchicalPlanesTest,
    ::testing::Combine(::testing::Values(Layout{0, 0, 2, 2}, Layout{0, 1, 1}, Layout{0, 0, 0, 3},
                                         Layout{0, 1, 2}, Layout{0, 1, 0, 1}, Layout{0, 1, 1, 0},
                                         Layout{0, 0, 2, 2, 2, 5}),
                       ::testing::Values(Near::Inproc, Near::Shared)),
    name_of);

void run_collectives(const Case& parameters, const HierarchicalOptions& options, DataType dtype,
                     const std::vector<std::int64_t>& counts) {
  const auto& [layout, near_kind] = parameters;
  Hosts hosts(layout, near_kind, options);
  run_ranks(hosts.size(), [&, &layout = layout](int rank) {
    Doorbell doorbell;
    const std::shared_ptr<DataPlane> near = hosts.near(rank, doorbell);
    std::vector<SelectingDataPlane::Choice> choices = {
        {"near", near},
        {"flat", hosts.flat(rank, doorbell)},
        {"hierarchical", hosts.hierarchical(rank, near, doorbell)}};
    using enum CollectiveKind;
    SelectingDataPlane plane(std::move(choices),
                             {{.kind = Allreduce, .reach = Reach::Host, .plane = 0},
                              {.kind = Broadcast, .reach = Reach::Host, .plane = 0},
                              {.kind = Allgather, .reach = Reach::Host, .plane = 0},
                              {.kind = Reducescatter, .reach = Reach::Host, .plane = 0},
                              {.kind = Alltoall, .reach = Reach::Host, .plane = 0},
                              {.kind = Allreduce, .reach = Reach::Cluster, .plane = 2},
                              {.kind = Broadcast, .reach = Reach::Cluster, .plane = 2},
                              {.kind = Allgather, .reach = Reach::Cluster, .plane = 1},
                              {.kind = Reducescatter, .reach = Reach::Cluster, .plane = 1},
                              {.kind = Alltoall, .reach = Reach::Cluster, .plane = 1}},
                             hosts.ranks_beside(rank), /*rings=*/true);
    scenarios::run_collectives(
        plane, rank, hosts.size(), dtype, counts, [&] { doorbell.wait(); }, Memory::Mixed, layout);
  });
}

TEST_P(HierarchicalPlanesTest, Collectives) {
  for (const DataType dtype :
       {DataType::Int8, DataType::Int64, DataType::Bool, DataType::Float16, DataType::Float64}) {
    run_collectives(GetParam(), {}, dtype, {0, 1, 3, 1023});
  }
  std::vector<std::int64_t> counts = {0, 1, 3, 1023};
  if (GetParam() == Case{{0, 0, 2, 2}, Near::Shared}) counts.push_back(1 << 20);
  run_collectives(GetParam(), {}, DataType::Float32, counts);
}

TEST_P(HierarchicalPlanesTest, ManyChunks) {
  for (const DataType dtype : {DataType::UInt8, DataType::BFloat16, DataType::Float32}) {
    run_collectives(GetParam(), {.chunk_bytes = 500}, dtype, {0, 1, 1023, 10'000});
  }
}

class GivingUpTest : public ::testing::TestWithParam<std::tuple<Near, int>> {};
INSTANTIATE_TEST_SUITE_P(Moments, GivingUpTest,
                         ::testing::Combine(::testing::Values(Near::Inproc, Near::Shared),
                                            ::testing::Values(0, 1, 2, 5, 20, 100)));

// Rank 1 takes part for a while, then thinks better of it. All others come to an end: rank 0 to an
// error when it needs rank 1 to the last, but what it gives may all be on the way already.
TEST_P(GivingUpTest, NobodyWaitsForIt) {
  const auto [near, turns] = GetParam();
  for (const CollectiveKind kind : {CollectiveKind::Allreduce, CollectiveKind::Broadcast}) {
    Hosts hosts({0, 0, 2, 2}, near, {.chunk_bytes = 1000});
    run_ranks(4, [&, turns = turns](int rank) {
      Doorbell doorbell;
      const auto plane = hosts.hierarchical(rank, hosts.near(rank, doorbell), doorbell);
      std::vector<float> data(200'000);  // more than rank 1 takes part in
      Collective c;
      c.kind = kind;
      c.ranks = {0, 1, 2, 3};
      c.member = rank;
      c.output = data.data();
      c.count = std::ssize(data);
      Result<std::unique_ptr<Operation>> operation = plane->start(c);
      Result<Operation::Progress> progress =
          operation.ok() ? operation.value()->progress() : operation.status();
      for (int turn = 0; progress.ok() && progress.value() != Operation::Progress::Done; ++turn) {
        if (rank == 1 && turn == turns) return;
        if (progress.value() == Operation::Progress::Waiting && rank != 1) doorbell.wait();
        progress = operation.value()->progress();
      }
      if (rank == 0 && kind == CollectiveKind::Allreduce) {
        EXPECT_FALSE(progress.ok());
      }
    });
  }
}

class GivingUpInTurnsTest : public ::testing::TestWithParam<std::tuple<Near, CollectiveKind>> {};
INSTANTIATE_TEST_SUITE_P(Kinds, GivingUpInTurnsTest,
                         ::testing::Combine(::testing::Values(Near::Inproc, Near::Shared),
                                            ::testing::Values(CollectiveKind::Allreduce,
                                                              CollectiveKind::Broadcast)));

// Who gives to a rank that sleeps gets so far ahead that a ring is full.
TEST_P(GivingUpInTurnsTest, NobodyWaitsOn) {
  const auto [near, kind] = GetParam();
  scenarios::GivingUp play;
  play.collective.kind = kind;
  play.collective.ranks = {0, 1, 2, 3};
  play.collective.count = 30'000;
  const auto run = [&play, near = near] {
    Hosts hosts({0, 0, 2, 2}, near, {.chunk_bytes = 1000});
    std::vector<Doorbell> doorbells(4);
    std::vector<std::shared_ptr<DataPlane>> planes(4);
    run_ranks(4, [&](int rank) {
      const auto i = static_cast<std::size_t>(rank);
      planes[i] = hosts.hierarchical(rank, hosts.near(rank, doorbells[i]), doorbells[i]);
    });
    scenarios::run_giving_up(planes, play);
  };
  for (play.quitter = 0; play.quitter < 4; ++play.quitter) {
    for (const int turns : {0, 1, 2, 25}) {
      play.turns = turns;
      play.sleeper = std::nullopt;
      play.early = false;
      run();
      for (int sleeper = 0; sleeper < 4; ++sleeper) {
        play.sleeper = sleeper;
        for (const bool early : {false, true}) {
          play.early = early;
          run();
        }
      }
    }
  }
}

/// Of halves that are `value` on each of three ranks, two of them on one host.
void expect_of_large_halves(ReduceOp op, double postscale, std::uint16_t value,
                            std::uint16_t expected) {
  Hosts hosts({0, 0, 2}, Near::Inproc, {});
  run_ranks(3, [&](int rank) {
    Doorbell doorbell;
    const auto plane = hosts.hierarchical(rank, hosts.near(rank, doorbell), doorbell);
    std::uint16_t half = value;
    Collective c;
    c.dtype = DataType::Float16;
    c.op = op;
    c.postscale = postscale;
    c.ranks = {0, 1, 2};
    c.member = rank;
    c.output = &half;
    c.count = 1;
    const auto operation = plane->start(c).value();
    while (operation->progress().value() != Operation::Progress::Done) doorbell.wait();
    EXPECT_EQ(half, expected);
  });
}

constexpr std::uint16_t kHalf15000 = 0x7353;
constexpr std::uint16_t kHalf45000 = 0x797e;
constexpr std::uint16_t kHalf50000 = 0x7a1a;

// Nor does what hosts tell each other overflow: two values' sum, or 4/3 of one.
TEST(HierarchicalPlanes, AveragesLargeHalves) {
  expect_of_large_halves(ReduceOp::Average, 1.0, kHalf50000, kHalf50000);
}

TEST(HierarchicalPlanes, AddsLargeHalvesUpToLess) {
  expect_of_large_halves(ReduceOp::Sum, 0.1, kHalf50000, kHalf15000);
  expect_of_large_halves(ReduceOp::Sum, -0.3, kHalf50000, kHalf45000 | 0x8000);
}

TEST(HierarchicalPlanes, NamesAllMembersOfASilentHost) {
  Hosts hosts({0, 0, 2, 2}, Near::Inproc, {});
  std::vector<Doorbell> bells(2);
  std::vector<std::unique_ptr<DataPlane>> planes;
  std::vector<std::unique_ptr<Operation>> operations;
  float values[2] = {1, 2};
  for (int rank = 0; rank < 2; ++rank) {
    const auto i = static_cast<std::size_t>(rank);
    planes.push_back(hosts.hierarchical(rank, hosts.near(rank, bells[i]), bells[i]));
    Collective c;
    c.ranks = {0, 1, 2, 3};
    c.member = rank;
    c.output = &values[i];
    c.count = 1;
    operations.push_back(planes[i]->start(c).value());
    if (rank == 0) {
      EXPECT_EQ(operations[0]->missing(), std::vector<int>{1});
    }
  }
  EXPECT_EQ(operations[1]->progress().value(), Operation::Progress::Waiting);
  EXPECT_EQ(operations[1]->missing(), (std::vector<int>{2, 3}));
}

}  // namespace
}  // namespace kolo::core
