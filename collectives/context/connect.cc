#include <fmt/format.h>
#include <mpi.h>

#include <algorithm>

#include "context/context.h"
#include "context/mpi_bootstrap.h"
#include "control/host_control.h"
#include "control/inproc_control.h"
#include "control/mpi_control.h"
#include "control/shm_control.h"
#include "data/hierarchical_data.h"
#include "data/inproc_data.h"
#include "data/mpi_data.h"
#include "data/selector.h"
#include "data/shm_data.h"
#include "mpi/session.h"
#include "shm/host.h"

namespace kolo::core {
namespace {

Planes connect_alone(Doorbell& doorbell) {
  return {.control = InprocControlHub::create(1)->connect(0, doorbell),
          .data = InprocDataHub::create(1)->connect(0, doorbell)};
}

constexpr std::string_view kTurnedOff = "KOLO_SHARED_MEMORY=off";

/// The ranks of this host, when they can share memory.
Result<std::shared_ptr<shm::Host>> join_host(const Config& config, const Topology& topology) {
  Result<MpiBootstrap> bootstrap = MpiBootstrap::create();
  if (!bootstrap.ok()) return bootstrap.status();
  return shm::Host::join(bootstrap.value(),
                         {.global_rank = topology.rank,
                          .refusal = std::string(config.shared_memory ? "" : kTurnedOff)});
}

constexpr int kUnshared = -1;

/// Of each rank, the lowest on its host, or kUnshared where a host does not share memory.
using Hosts = std::vector<int>;

Result<Hosts> gather_hosts(const mpi::Session& session,
                           const Result<std::shared_ptr<shm::Host>>& host) {
  return session.all_gather(host.ok() ? host.value()->ranks().front() : kUnshared);
}

/// Whether there are several hosts, some with several ranks, and all share memory.
bool are_hierarchical(const Hosts& hosts) {
  const bool shared = std::ranges::find(hosts, kUnshared) == hosts.end();
  const bool one_host = std::ranges::count(hosts, hosts.front()) == std::ssize(hosts);
  Hosts sorted = hosts;
  std::ranges::sort(sorted);
  return shared && !one_host && std::ranges::adjacent_find(sorted) != sorted.end();
}

constexpr std::size_t kSharedMemory = 0;
constexpr std::size_t kMpi = 1;
constexpr std::size_t kHierarchical = 2;

std::vector<Route> routes(bool hierarchical) {
  const std::size_t across = hierarchical ? kHierarchical : kMpi;
  using enum CollectiveKind;
  return {{.kind = Allreduce, .reach = Reach::Host, .plane = kSharedMemory},
          {.kind = Allreduce, .reach = Reach::Cluster, .plane = across},
          {.kind = Broadcast, .reach = Reach::Host, .plane = kSharedMemory},
          {.kind = Broadcast, .reach = Reach::Cluster, .plane = across},
          {.kind = Allgather, .reach = Reach::Host, .plane = kSharedMemory},
          {.kind = Allgather, .reach = Reach::Cluster, .plane = kMpi}};
}

/// Puts shared memory before MPI within this host, and, where hosts have several ranks, both
/// together between hosts.
Result<Planes> share_memory(const mpi::Session& session, const std::shared_ptr<shm::Host>& host,
                            const Hosts& hosts, Planes mpi, Doorbell& doorbell) {
  const Topology topology = mpi.control->topology();
  doorbell.move_to(host->own_doorbell());
  const auto near = std::make_shared<ShmDataPlane>(host);
  std::vector<SelectingDataPlane::Choice> choices = {{"shared memory", near},
                                                     {"MPI", std::move(mpi.data)}};
  const bool hierarchical = are_hierarchical(hosts);
  if (hierarchical) {
    auto far = MpiDataPlane::create(session);
    if (!far.ok()) return far.status();
    choices.push_back(
        {"shared memory within hosts, MPI between them",
         std::make_shared<HierarchicalDataPlane>(near, std::move(far).value(), hosts)});
  }
  const bool one_host = topology.local_size == topology.size;
  auto data = std::make_unique<SelectingDataPlane>(std::move(choices), routes(hierarchical),
                                                   host->ranks(), one_host);
  std::string table = data->describe();
  return Planes{
      .control = std::make_unique<HostControlPlane>(
          std::make_unique<ShmControlPlane>(host, topology), std::move(mpi.control), host->ranks()),
      .data = std::move(data),
      .description = std::move(table)};
}

Result<Planes> connect_mpi(const Config& config, Doorbell& doorbell) {
  const Result<mpi::Session> session = mpi::Session::open();
  if (!session.ok()) return session.status();
  auto control = MpiControlPlane::create(session.value());
  if (!control.ok()) return control.status();
  auto data = MpiDataPlane::create(session.value());
  if (!data.ok()) return data.status();
  Planes planes{.control = std::move(control).value(), .data = std::move(data).value()};

  const Topology& topology = planes.control->topology();
  Result<std::shared_ptr<shm::Host>> host = join_host(config, topology);
  const Result<Hosts> hosts = gather_hosts(session.value(), host);
  if (!hosts.ok()) return hosts.status();
  if (host.ok()) {
    return share_memory(session.value(), host.value(), hosts.value(), std::move(planes), doorbell);
  }
  if (config.shared_memory && topology.local_rank == 0) {
    planes.warning = fmt::format(
        "the ranks of this host use MPI among themselves, because they "
        "cannot share memory, which would be faster: {}",
        host.status().message());
  }
  return planes;
}

}  // namespace

Result<Planes> connect_to_job(const Config& config, Doorbell& doorbell) {
  int mpi_started = 0;
  MPI_Initialized(&mpi_started);
  if (mpi_started == 0 && !started_by_launcher()) return connect_alone(doorbell);
  return connect_mpi(config, doorbell);
}

}  // namespace kolo::core
