// The planes of a host with ranks as processes: memory is passed between them, or refused.

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <optional>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include "context/context.h"
#include "context/mpi_bootstrap.h"
#include "control/shm_control.h"
#include "data/shm_data.h"
#include "mpi/session.h"
#include "plane_scenarios.h"
#include "shm/descriptor.h"

namespace kolo::core {
namespace {

using scenarios::Memory;
using ::testing::HasSubstr;

struct Ranks {
  mpi::Session session = mpi::Session::open().value();
  Topology topology = session.topology().value();
};

std::shared_ptr<shm::Host> join(const Topology& topology) {
  MpiBootstrap bootstrap = MpiBootstrap::create(mpi::Session::open().value()).value();
  auto host = shm::Host::join(bootstrap, {.global_rank = topology.rank});
  EXPECT_TRUE(host.ok()) << host.status().message();
  return std::move(host).value();
}

using Case = std::tuple<DataType, Memory>;

std::string name_of(const ::testing::TestParamInfo<Case>& test) {
  const auto& [dtype, memory] = test.param;
  const char* const place = memory == Memory::Private ? "private"
                            : memory == Memory::Plane ? "arena"
                                                      : "mixed";
  return fmt::format("{}_{}", to_string(dtype), place);
}

class MpiShmDataTest : public ::testing::TestWithParam<Case> {};

INSTANTIATE_TEST_SUITE_P(
    Memory, MpiShmDataTest,
    ::testing::Combine(::testing::Values(DataType::Int8, DataType::Float16, DataType::Float32),
                       ::testing::Values(Memory::Private, Memory::Plane, Memory::Mixed)),
    name_of);

TEST_P(MpiShmDataTest, Collectives) {
  const auto& [dtype, memory] = GetParam();
  const Topology topology = Ranks().topology;
  const auto host = join(topology);
  Doorbell doorbell;
  doorbell.move_to(host->own_doorbell());
  ShmDataPlane plane(host);
  std::vector<std::int64_t> counts = {0, 1, 3, 1023};
  if (dtype == DataType::Float32) counts.push_back(1 << 20);
  scenarios::run_collectives(
      plane, topology.rank, topology.size, dtype, counts, [&] { doorbell.wait(); }, memory);
}

TEST(MpiShm, Messages) {
  const Topology topology = Ranks().topology;
  const auto host = join(topology);
  Doorbell doorbell;
  doorbell.move_to(host->own_doorbell());
  ShmControlPlane plane(host, topology);
  scenarios::run_messages(plane, [&] { doorbell.wait(); });
}

// Ranks whose memory peers still use may leave at any time.
TEST(MpiShm, MemoryOutlivesWhoLeft) {
  const Topology topology = Ranks().topology;
  for (int round = 0; round < 20; ++round) {
    auto host = join(topology);
    const int last = topology.size - 1;
    ASSERT_EQ(host->size(), topology.size);
    if (topology.rank == round % topology.size) {
      host.reset();
      continue;
    }
    for (int i = 0; i < 100; ++i) host->ring(last);
    ASSERT_NE(host->at(last, 0, 4096), nullptr);
    EXPECT_EQ(host->at(last, std::uint64_t{1} << 60, 1), nullptr);
  }
}

Result<Planes> connect(const Config& config, Doorbell& doorbell) {
  Result<Planes> planes = connect_to_job(config, doorbell);
  EXPECT_TRUE(planes.ok()) << planes.status().message();
  return planes;
}

TEST(MpiShm, IsUsedUnlessTurnedOff) {
  Doorbell doorbell;
  const Planes shared = connect({}, doorbell).value();
  EXPECT_TRUE(shared.control->rings() && shared.data->rings());
  EXPECT_THAT(shared.description, HasSubstr("allreduce on cpu within a host: shared memory"));
  Doorbell other;
  const Planes mpi = connect({.shared_memory = false}, other).value();
  EXPECT_FALSE(mpi.control->rings() || mpi.data->rings());
  EXPECT_EQ(shared.warning + mpi.warning, "");
}

/// What this process may have, while this lives.
class Limit {
 public:
  Limit(__rlimit_resource resource, rlim_t most) : resource_(resource) {
    EXPECT_EQ(::getrlimit(resource, &before_), 0);
    const rlimit lower{.rlim_cur = most, .rlim_max = before_.rlim_max};
    EXPECT_EQ(::setrlimit(resource, &lower), 0);
  }
  ~Limit() { EXPECT_EQ(::setrlimit(resource_, &before_), 0); }
  Limit(const Limit&) = delete;
  Limit& operator=(const Limit&) = delete;

 private:
  const __rlimit_resource resource_;
  rlimit before_{};
};

/// The number of descriptors that leaves room for `more` of them. A new one has the lowest number
/// that is free.
rlim_t descriptors(int more) {
  std::vector<shm::Descriptor> free;
  for (int i = 0; i < more; ++i) free.emplace_back(::dup(STDERR_FILENO));
  return static_cast<rlim_t>(free.back().get()) + 1;
}

/// The last rank may have no more than `most`: all of the host use MPI, and the first one says why.
void expect_refusal(__rlimit_resource resource, rlim_t most, const std::string& why) {
  const Topology topology = Ranks().topology;
  std::optional<Limit> limit;
  if (topology.rank == topology.size - 1) limit.emplace(resource, most);
  Doorbell doorbell;
  const Planes planes = connect({}, doorbell).value();
  limit.reset();
  EXPECT_FALSE(planes.control->rings() || planes.data->rings());
  if (topology.rank == 0) {
    EXPECT_THAT(planes.warning, HasSubstr(fmt::format("rank {}: ", topology.size - 1)));
    EXPECT_THAT(planes.warning, HasSubstr(why));
  } else {
    EXPECT_EQ(planes.warning, "");
  }
  scenarios::run_collectives(*planes.data, topology.rank, topology.size, DataType::Float32,
                             {0, 1, 1023, 100'000}, std::this_thread::yield);
}

// One rank may not grow files: nobody on its host shares memory, and one says why.
TEST(MpiShm, RefusedOnOneRefusedOnAll) {
  expect_refusal(RLIMIT_FSIZE, 4096, "only 4096 allowed (see ulimit -f)");
}

// All have an arena, and a mailbox, but one has no room for a socket with which it would send.
TEST(MpiShm, OneCannotSend) {
  if (Ranks().topology.size == 1) GTEST_SKIP() << "one rank has nobody to send a descriptor to";
  expect_refusal(RLIMIT_NOFILE, descriptors(2), "sending a descriptor: Too many open files");
}

// Or for the descriptors that come.
TEST(MpiShm, OneCannotReceive) {
  if (Ranks().topology.size == 1) GTEST_SKIP() << "one rank has nobody to send a descriptor to";
  expect_refusal(RLIMIT_NOFILE, descriptors(3),
                 "receiving a descriptor: it was not let in, as where a process has too many open "
                 "files (see ulimit -n)");
}

// Turned off on one rank: off for all, and the others hear of it.
TEST(MpiShm, TurnedOffOnOneRank) {
  const Topology topology = Ranks().topology;
  const int last = topology.size - 1;
  Doorbell doorbell;
  const Planes planes = connect({.shared_memory = topology.rank != last}, doorbell).value();
  EXPECT_FALSE(planes.data->rings());
  const bool warned = planes.warning.find("KOLO_SHARED_MEMORY=off") != std::string::npos;
  EXPECT_EQ(warned, topology.rank == 0 && last != 0) << planes.warning;
}

}  // namespace
}  // namespace kolo::core
