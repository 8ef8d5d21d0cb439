#pragma once

/// The process's use of MPI: who starts and ends it, and what Kolo gets from it.

#include <vector>

#include "base/status.h"
#include "base/topology.h"
#include "mpi/handles.h"

namespace kolo::core::mpi {

/// Proof that MPI is running with sufficient thread support. Copies mean the same.
class Session {
 public:
  /// Starts MPI if nobody has, asking for MPI_THREAD_MULTIPLE; whoever has started it must have got
  /// MPI_THREAD_SERIALIZED or better. What Kolo starts is finalised when the process exits, not
  /// before: MPI cannot be started twice, and kolo::init() after kolo::shutdown() has to work. A
  /// process that exits with a status other than 0 is not finalised, because that would wait for
  /// all other ranks, and they may be waiting for this one; the launcher then ends the job.
  ///
  /// Fails when MPI gives too little thread support, or was finalised already. Thread-safe.
  static Result<Session> open();

  /// A communicator of all ranks that nobody else uses. Collective over MPI_COMM_WORLD.
  Result<Comm> duplicate_world() const;

  /// Collective over MPI_COMM_WORLD.
  Result<Topology> topology() const;

  /// Collective over all ranks: of each, the lowest on its host.
  Result<std::vector<int>> hosts() const;

  /// Collective over all ranks: what each has given, by rank.
  Result<std::vector<int>> all_gather(int own) const;

  /// What MPI provides: MPI_THREAD_SERIALIZED or MPI_THREAD_MULTIPLE.
  int thread_level() const { return thread_level_; }

 private:
  explicit Session(int thread_level) : thread_level_(thread_level) {}

  int thread_level_;
};

}  // namespace kolo::core::mpi
