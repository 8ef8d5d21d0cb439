#include "mpi/session.h"

#include <fmt/format.h>
#include <stdlib.h>  // on_exit

#include <cstdlib>
#include <mutex>
#include <string_view>

namespace kolo::core::mpi {
namespace {

std::string_view thread_level_name(int level) {
  if (level == MPI_THREAD_SINGLE) return "MPI_THREAD_SINGLE";
  if (level == MPI_THREAD_FUNNELED) return "MPI_THREAD_FUNNELED";
  if (level == MPI_THREAD_SERIALIZED) return "MPI_THREAD_SERIALIZED";
  return "MPI_THREAD_MULTIPLE";
}

/// The lowest rank on this host, `host` being those on it.
Result<int> first_rank_of(const Comm& host) {
  int rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  int lowest = rank;
  Status status =
      check(MPI_Allreduce(&rank, &lowest, 1, MPI_INT, MPI_MIN, host.get()), "MPI_Allreduce");
  if (!status.ok()) return status;
  return lowest;
}

void finalize_at_exit(int exit_status, void* /*argument*/) {
  if (exit_status == EXIT_SUCCESS && is_active()) MPI_Finalize();
}

Status start() {
  int level = MPI_THREAD_SINGLE;
  Status status =
      check(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_MULTIPLE, &level), "MPI_Init_thread");
  if (!status.ok()) return status;
  if (on_exit(finalize_at_exit, nullptr) != 0) {
    return Status::error("cannot register MPI_Finalize to be called when the process exits");
  }
  return {};
}

}  // namespace

Result<Session> Session::open() {
  static std::mutex mutex;
  const std::lock_guard lock(mutex);

  int finalized = 0;
  MPI_Finalized(&finalized);
  if (finalized != 0) {
    return Status::error(
        "MPI was finalised before Kolo was initialised, and cannot be started again: move "
        "kolo::init() before the call of MPI_Finalize");
  }
  int initialized = 0;
  MPI_Initialized(&initialized);
  if (initialized == 0) {
    if (Status status = start(); !status.ok()) return status;
  }
  int level = MPI_THREAD_SINGLE;
  if (Status status = check(MPI_Query_thread(&level), "MPI_Query_thread"); !status.ok()) {
    return status;
  }
  if (level >= MPI_THREAD_SERIALIZED) return Session(level);
  if (initialized == 0) {
    return Status::error(fmt::format(
        "this MPI library provides {} where Kolo asked for MPI_THREAD_MULTIPLE and needs "
        "MPI_THREAD_SERIALIZED: use an MPI that was built with thread support",
        thread_level_name(level)));
  }
  return Status::error(fmt::format(
      "MPI was initialised before Kolo, with {}; Kolo talks from several threads, one at a time, and needs "
      "MPI_THREAD_SERIALIZED or better: call MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, "
      "&provided) in place of MPI_Init, or leave starting MPI to kolo::init()",
      thread_level_name(level)));
}

Result<Comm> Session::duplicate_world() const { return Comm::duplicate(MPI_COMM_WORLD); }

Result<Topology> Session::topology() const {
  Result<Comm> world = duplicate_world();
  if (!world.ok()) return world.status();
  Result<Comm> local = Comm::split_by_host(world.value().get());
  if (!local.ok()) return local.status();
  Topology topology;
  topology.rank = world.value().rank();
  topology.size = world.value().size();
  topology.local_rank = local.value().rank();
  topology.local_size = local.value().size();
  Result<Comm> cross = Comm::split(world.value().get(), topology.local_rank);
  if (!cross.ok()) return cross.status();
  topology.cross_rank = cross.value().rank();
  topology.cross_size = cross.value().size();
  const Result<int> first = first_rank_of(local.value());
  if (!first.ok()) return first.status();
  topology.with_rank_0 = first.value() == 0;
  return topology;
}

Result<std::vector<int>> Session::hosts() const {
  Result<Comm> host = Comm::split_by_host(MPI_COMM_WORLD);
  if (!host.ok()) return host.status();
  const Result<int> first = first_rank_of(host.value());
  if (!first.ok()) return first.status();
  return all_gather(first.value());
}

Result<std::vector<int>> Session::all_gather(int own) const {
  Result<Comm> world = duplicate_world();
  if (!world.ok()) return world.status();
  std::vector<int> all(static_cast<std::size_t>(world.value().size()));
  Status status =
      check(MPI_Allgather(&own, 1, MPI_INT, all.data(), 1, MPI_INT, world.value().get()),
            "MPI_Allgather");
  if (!status.ok()) return status;
  return all;
}

}  // namespace kolo::core::mpi
