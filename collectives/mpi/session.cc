#include "mpi/session.h"

#include <fmt/format.h>
#include <stdlib.h>  // on_exit

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdlib>
#include <mutex>
#include <string_view>

#include "base/forked.h"
#include "base/threads.h"
#include "mpi/start_watch.h"

namespace kolo::core::mpi {
namespace {

std::string_view thread_level_name(int level) {
  if (level == MPI_THREAD_SINGLE) return "MPI_THREAD_SINGLE";
  if (level == MPI_THREAD_FUNNELED) return "MPI_THREAD_FUNNELED";
  if (level == MPI_THREAD_SERIALIZED) return "MPI_THREAD_SERIALIZED";
  return "MPI_THREAD_MULTIPLE";
}

/// The lowest of `ranks` on this host, `host` being those on it.
Result<int> first_rank_of(const Comm& host, MPI_Comm ranks) {
  int rank = 0;
  MPI_Comm_rank(ranks, &rank);
  int lowest = rank;
  Status status =
      check(MPI_Allreduce(&rank, &lowest, 1, MPI_INT, MPI_MIN, host.get()), "MPI_Allreduce");
  if (!status.ok()) return status;
  return lowest;
}

std::atomic<bool> started_here = false;
std::atomic<bool> is_left_unfinished = false;

void finalize_at_exit(int exit_status, void* /*argument*/) {
  if (exit_status == EXIT_SUCCESS) Session::end_own();
}

Status start(const Patience& patience) {
  // MPI's own threads are not there to handle the program's signals.
  const SignalsBlocked blocked;
  const StartWatch watch(patience);
  int level = MPI_THREAD_SINGLE;
  Status status =
      check(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_MULTIPLE, &level), "MPI_Init_thread");
  if (!status.ok()) return status;
  started_here = true;
  if (on_exit(finalize_at_exit, nullptr) != 0) {
    return Status::error("cannot register MPI_Finalize to be called when the process exits");
  }
  return {};
}

/// Whether this process belongs to the ranks given.
Status check_ranks(MPI_Comm ranks) {
  if (ranks == MPI_COMM_NULL) {
    return Status::error(
        "the communicator is MPI_COMM_NULL: those call kolo::init(communicator) that belong to it, and no "
        "others");
  }
  int is_inter = 0;
  if (Status status = check(MPI_Comm_test_inter(ranks, &is_inter), "MPI_Comm_test_inter");
      !status.ok()) {
    return status;
  }
  if (is_inter == 0) return {};
  return Status::error(
      "the communicator has two groups of ranks: merge it with MPI_Intercomm_merge, or use the "
      "communicator of one group");
}

}  // namespace

void leave_mpi_unfinished() { is_left_unfinished = true; }

std::string library_name() {
  std::array<char, MPI_MAX_LIBRARY_VERSION_STRING> text{};
  int length = 0;
  MPI_Get_library_version(text.data(), &length);
  std::string name(text.data());
  name = name.substr(0, name.find_first_of(",\n"));
  std::ranges::replace(name, '\t', ' ');
  return name;
}

Result<Session> Session::open(const Options& options) {
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
    if (Status status = start(options.patience); !status.ok()) return status;
  }
  if (Status status = check_ranks(options.ranks); !status.ok()) return status;
  int level = MPI_THREAD_SINGLE;
  if (Status status = check(MPI_Query_thread(&level), "MPI_Query_thread"); !status.ok()) {
    return status;
  }
  if (level >= MPI_THREAD_SERIALIZED) return Session(options.ranks, level);
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

void Session::end_own() {
  if (!started_here || is_left_unfinished || is_forked_child()) return;
  if (is_active()) MPI_Finalize();
}

Status Session::before_end(void (*call)()) {
  // MPI frees MPI_COMM_SELF before it does anything else to finalise, and tells those who have attributes there.
  static std::atomic<void (*)()> called = nullptr;
  static int key = MPI_KEYVAL_INVALID;
  called = call;
  if (key != MPI_KEYVAL_INVALID) return {};
  const auto tell = [](MPI_Comm, int, void*, void*) {
    called.load()();
    return MPI_SUCCESS;
  };
  Status status = check(MPI_Comm_create_keyval(MPI_COMM_NULL_COPY_FN, tell, &key, nullptr),
                        "MPI_Comm_create_keyval");
  if (!status.ok()) return status;
  return check(MPI_Comm_set_attr(MPI_COMM_SELF, key, nullptr), "MPI_Comm_set_attr");
}

Result<Comm> Session::duplicate_world() const { return Comm::duplicate(ranks_); }

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
  const Result<int> first = first_rank_of(local.value(), ranks_);
  if (!first.ok()) return first.status();
  topology.with_rank_0 = first.value() == 0;
  return topology;
}

Result<std::vector<int>> Session::hosts() const {
  Result<Comm> host = Comm::split_by_host(ranks_);
  if (!host.ok()) return host.status();
  const Result<int> first = first_rank_of(host.value(), ranks_);
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
