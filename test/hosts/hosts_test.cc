// Two hosts of two ranks each, and (UnequalHosts) of one and of three.

#include <gtest/gtest.h>
#include <mpi.h>
#include <unistd.h>

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>

#include "context/context.h"
#include "engine/programs.h"
#include "mpi/session.h"
#include "timeline/trace_reader.h"

namespace kolo::core {
namespace {

using programs::Recipe;

std::unique_ptr<Context> create(const Config& config = {}) {
  Result<std::unique_ptr<Context>> context = Context::create(config, connect_to_job);
  EXPECT_TRUE(context.ok()) << context.status().message();
  return std::move(context).value();
}

TEST(Hosts, AreToldApart) {
  const Topology topology = create()->topology();
  EXPECT_EQ(topology.size, 4);
  EXPECT_EQ(topology.local_size, 2);
  EXPECT_EQ(topology.local_rank, topology.rank % 2);
  EXPECT_EQ(topology.cross_size, 2);
  EXPECT_EQ(topology.cross_rank, topology.rank / 2);
  EXPECT_EQ(topology.with_rank_0, topology.rank < 2);
}

TEST(UnequalHosts, AreToldApart) {
  const Topology topology = create()->topology();
  EXPECT_EQ(topology.local_size, topology.rank == 0 ? 1 : 3);
  EXPECT_EQ(topology.cross_size, topology.rank < 2 ? 2 : 1);
  EXPECT_EQ(topology.cross_rank, topology.rank == 1 ? 1 : 0);
  EXPECT_EQ(topology.with_rank_0, topology.rank == 0);
}

TEST(Hosts, ComposeTheirPlanes) {
  Doorbell doorbell;
  const Planes planes = connect_to_job({}, doorbell).value();
  EXPECT_FALSE(planes.data->rings());
  for (const char* row : {"allreduce on cpu within a host: shared memory\n",
                          "allreduce on cpu between hosts: shared memory within hosts, MPI",
                          "allgather on cpu between hosts: MPI\n",
                          "reducescatter on cpu between hosts: MPI\n",
                          "alltoall on cpu between hosts: MPI\n"}) {
    EXPECT_NE(planes.description.find(row), std::string::npos) << planes.description;
  }
}

// All or none: otherwise the hosts would not understand each other.
TEST(Hosts, AllUseMpiWhenOneDoesNotShareMemory) {
  Doorbell doorbell;
  const bool first_host = mpi::Session::open().value().topology().value().with_rank_0;
  const Planes planes = connect_to_job({.shared_memory = first_host}, doorbell).value();
  EXPECT_EQ(planes.description.find("shared memory within hosts"), std::string::npos);
  EXPECT_NE(planes.description.find("allreduce on cpu between hosts: MPI"), std::string::npos)
      << planes.description;
}

TEST(Hosts, ReduceInManyChunks) {
  const auto context = create();
  const programs::Set all = programs::world(*context);
  for (const ReduceOp op : {ReduceOp::Sum, ReduceOp::Average}) {
    Recipe recipe{.name = "large", .op = op, .count = 1'100'001};
    programs::run(*context, all, recipe);
    recipe.kind = CollectiveKind::Broadcast;
    recipe.root_member = 3;
    programs::run(*context, all, recipe);
  }
}

/// The same on all ranks.
std::string shared_path() {
  const mpi::Comm world = mpi::Session::open().value().duplicate_world().value();
  int number = ::getpid();
  MPI_Bcast(&number, 1, MPI_INT, 0, world.get());
  return (std::filesystem::temp_directory_path() / fmt::format("kolo_hosts_{}.json", number))
      .string();
}

TEST(Hosts, WriteOneTimeline) {
  const std::string path = shared_path();
  {
    const auto context = create({.timeline = path});
    for (std::uint64_t i = 0; i < 20; ++i) {
      programs::run(*context, programs::world(*context), {.name = "t", .count = 10, .seed = i});
    }
  }
  // Until all have written what they have.
  const mpi::Comm world = mpi::Session::open().value().duplicate_world().value();
  if (world.rank() != 0) return;
  std::map<int, int> slices;
  std::set<std::string> names;
  for (const Json& event : read_events(path)) {
    const int pid = event["pid"];
    if (event["name"] == "process_name") names.insert(event["args"]["name"]);
    if (event["ph"] == "X" && event["name"] == "reduce") ++slices[pid];
  }
  EXPECT_EQ(names, (std::set<std::string>{"rank 0 (host0)", "rank 1 (host0)", "rank 2 (host1)",
                                          "rank 3 (host1)"}));
  EXPECT_EQ(slices, (std::map<int, int>{{0, 20}, {1, 20}, {2, 20}, {3, 20}}));
  std::filesystem::remove(path);
}

}  // namespace
}  // namespace kolo::core
