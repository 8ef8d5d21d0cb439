#include <fmt/format.h>
#include <mpi.h>

#include <algorithm>
#include <initializer_list>

#include "context/context.h"
#include "context/gpu_planes.h"
#include "context/job.h"
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

using enum CollectiveKind;

/// That a data plane carries.
constexpr auto kAllKinds = {Allreduce, Broadcast, Allgather, Reducescatter, Alltoall};

/// The data planes of a rank, and which of them carries what.
struct Selection {
  std::vector<SelectingDataPlane::Choice> choices;
  std::vector<Route> routes;
  /// Of this host; and whether the planes for the host's memory ring.
  std::vector<int> host_ranks;
  bool rings = false;

  /// Returns the index of the plane.
  std::size_t add(std::string name, std::shared_ptr<DataPlane> plane) {
    choices.push_back({std::move(name), std::move(plane)});
    return choices.size() - 1;
  }
  void route(DeviceType device, Reach reach, std::initializer_list<CollectiveKind> kinds,
             std::size_t plane) {
    for (const CollectiveKind kind : kinds) {
      routes.push_back({.kind = kind, .device = device, .reach = reach, .plane = plane});
    }
  }
};

void select(Selection selection, const HostPlanes& host, const Config& config, Planes& planes) {
  GpuPlane gpu = connect_gpu(config, planes.control->topology(), host);
  planes.gpu = std::move(gpu.gpu);
  if (gpu.plane != nullptr) {
    const std::size_t nccl = selection.add("NCCL", std::move(gpu.plane));
    std::size_t across = nccl;
    if (gpu.between_hosts != nullptr) {
      across = selection.add("NCCL within hosts, MPI between them", std::move(gpu.between_hosts));
    }
    selection.route(DeviceType::Cuda, Reach::Host, kAllKinds, nccl);
    selection.route(DeviceType::Cuda, Reach::Cluster, {Allreduce, Broadcast}, across);
    selection.route(DeviceType::Cuda, Reach::Cluster, {Allgather, Reducescatter, Alltoall}, nccl);
  }
  auto data = std::make_unique<SelectingDataPlane>(
      std::move(selection.choices), std::move(selection.routes), std::move(selection.host_ranks),
      selection.rings);
  planes.description = data->describe();
  planes.data = std::move(data);
}

Planes connect_alone(const Config& config, Doorbell& doorbell) {
  Planes planes{.control = InprocControlHub::create(1)->connect(0, doorbell)};
  const std::shared_ptr<DataPlane> data = InprocDataHub::create(1)->connect(0, doorbell);
  Selection selection{.host_ranks = {0}, .rings = true};
  selection.route(DeviceType::Cpu, Reach::Host, kAllKinds, selection.add("this process", data));
  select(std::move(selection), {.any = data}, config, planes);
  return planes;
}

constexpr std::string_view kTurnedOff = "KOLO_SHARED_MEMORY=off";

/// The ranks of this host, when they can share memory.
Result<std::shared_ptr<shm::Host>> join_host(const mpi::Session& session, const Config& config,
                                             const Topology& topology) {
  Result<MpiBootstrap> bootstrap = MpiBootstrap::create(session);
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

/// Shared memory within this host, before MPI, and, where hosts have several ranks, both together
/// between hosts.
Selection select_shared_memory(const std::shared_ptr<shm::Host>& host, const Hosts& hosts,
                               const HostPlanes& mpi) {
  const bool one_host = std::ssize(hosts) == host->size();
  Selection selection{.host_ranks = host->ranks(), .rings = one_host};
  const auto near = std::make_shared<ShmDataPlane>(host);
  selection.route(DeviceType::Cpu, Reach::Host, kAllKinds, selection.add("shared memory", near));
  const std::size_t flat = selection.add("MPI", mpi.any);
  std::size_t across = flat;
  if (are_hierarchical(hosts)) {
    across = selection.add("shared memory within hosts, MPI between them",
                           std::make_shared<HierarchicalDataPlane>(near, mpi.far, hosts));
  }
  selection.route(DeviceType::Cpu, Reach::Cluster, {Allreduce, Broadcast}, across);
  selection.route(DeviceType::Cpu, Reach::Cluster, {Allgather, Reducescatter, Alltoall}, flat);
  return selection;
}

Selection select_mpi(std::shared_ptr<DataPlane> mpi) {
  Selection selection;
  selection.route(DeviceType::Cpu, Reach::Cluster, kAllKinds, selection.add("MPI", std::move(mpi)));
  return selection;
}

/// Collective. Whether this job uses them or not: ranks whose settings differ find that out later.
Result<HostPlanes> connect_hosts(const mpi::Session& session) {
  HostPlanes planes;
  auto any = MpiDataPlane::create(session);
  if (!any.ok()) return any.status();
  planes.any = std::move(any).value();
  const Result<std::vector<int>> hosts = session.hosts();
  if (!hosts.ok()) return hosts.status();
  planes.hosts = hosts.value();
  if (std::ranges::count(planes.hosts, planes.hosts.front()) == std::ssize(planes.hosts)) {
    return planes;
  }
  auto far = MpiDataPlane::create(session);
  if (!far.ok()) return far.status();
  planes.far = std::move(far).value();
  return planes;
}

Result<Planes> connect_mpi(const mpi::Session& session, const Config& config, Doorbell& doorbell) {
  auto control = MpiControlPlane::create(session);
  if (!control.ok()) return control.status();
  const Result<HostPlanes> mpi = connect_hosts(session);
  if (!mpi.ok()) return mpi.status();
  Planes planes{.control = std::move(control).value()};

  const Topology topology = planes.control->topology();
  Result<std::shared_ptr<shm::Host>> host = join_host(session, config, topology);
  const Result<Hosts> hosts = gather_hosts(session, host);
  if (!hosts.ok()) return hosts.status();
  if (host.ok()) {
    Selection selection = select_shared_memory(host.value(), hosts.value(), mpi.value());
    doorbell.move_to(host.value()->own_doorbell());
    planes.control = std::make_unique<HostControlPlane>(
        std::make_unique<ShmControlPlane>(host.value(), topology), std::move(planes.control),
        host.value()->ranks());
    select(std::move(selection), mpi.value(), config, planes);
    return planes;
  }
  select(select_mpi(mpi.value().any), mpi.value(), config, planes);
  if (config.shared_memory && topology.local_rank == 0) {
    planes.warning = fmt::format(
        "the ranks of this host use MPI among themselves, because they "
        "cannot share memory, which would be faster: {}",
        host.status().message());
  }
  return planes;
}

}  // namespace

Connect connect_to_ranks(const GivenRanks& given) {
  return [given](const Config& config, Doorbell& doorbell) -> Result<Planes> {
    const Result<std::optional<mpi::Session>> job = join_job(config, Status(), given);
    if (!job.ok()) return job.status();
    if (!job.value()) return connect_alone(config, doorbell);
    return connect_mpi(*job.value(), config, doorbell);
  };
}

Status leave_before_mpi(void (*leave)()) {
  return mpi::is_active() ? mpi::Session::before_end(leave) : Status();
}

void end_own_mpi() { mpi::Session::end_own(); }

Result<Planes> connect_to_job(const Config& config, Doorbell& doorbell) {
  return connect_to_ranks(GivenRanks())(config, doorbell);
}

}  // namespace kolo::core
