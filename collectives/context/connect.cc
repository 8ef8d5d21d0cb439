#include <fmt/format.h>
#include <mpi.h>

#include "context/context.h"
#include "context/mpi_bootstrap.h"
#include "control/host_control.h"
#include "control/inproc_control.h"
#include "control/mpi_control.h"
#include "control/shm_control.h"
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

/// Puts shared memory before MPI, within this host.
Planes share_memory(const std::shared_ptr<shm::Host>& host, Planes mpi, Doorbell& doorbell) {
  const Topology topology = mpi.control->topology();
  doorbell.move_to(host->own_doorbell());
  std::vector<SelectingDataPlane::Choice> choices;
  choices.push_back({"shared memory", std::make_unique<ShmDataPlane>(host)});
  choices.push_back({"MPI", std::move(mpi.data)});
  std::vector<Route> routes;
  for (const CollectiveKind kind :
       {CollectiveKind::Allreduce, CollectiveKind::Broadcast, CollectiveKind::Allgather}) {
    routes.push_back({.kind = kind, .reach = Reach::Host, .plane = 0});
    routes.push_back({.kind = kind, .reach = Reach::Cluster, .plane = 1});
  }
  const bool one_host = topology.local_size == topology.size;
  auto data = std::make_unique<SelectingDataPlane>(std::move(choices), std::move(routes),
                                                   host->ranks(), one_host);
  std::string table = data->describe();
  return {
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
  if (host.ok()) return share_memory(host.value(), std::move(planes), doorbell);
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
