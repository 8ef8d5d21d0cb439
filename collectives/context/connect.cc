#include <mpi.h>

#include "context/context.h"
#include "control/inproc_control.h"
#include "control/mpi_control.h"
#include "data/inproc_data.h"
#include "data/mpi_data.h"
#include "mpi/session.h"

namespace kolo::core {
namespace {

Planes connect_alone(Doorbell& doorbell) {
  return {.control = InprocControlHub::create(1)->connect(0, doorbell),
          .data = InprocDataHub::create(1)->connect(0, doorbell)};
}

Result<Planes> connect_mpi() {
  const Result<mpi::Session> session = mpi::Session::open();
  if (!session.ok()) return session.status();
  auto control = MpiControlPlane::create(session.value());
  if (!control.ok()) return control.status();
  auto data = MpiDataPlane::create(session.value());
  if (!data.ok()) return data.status();
  return Planes{.control = std::move(control).value(), .data = std::move(data).value()};
}

}  // namespace

Result<Planes> connect_to_job(Doorbell& doorbell) {
  int mpi_started = 0;
  MPI_Initialized(&mpi_started);
  if (mpi_started == 0 && !started_by_launcher()) return connect_alone(doorbell);
  return connect_mpi();
}

}  // namespace kolo::core
