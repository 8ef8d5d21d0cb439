#pragma once

/// The process's use of MPI: who starts and ends it, and what Kolo gets from it.

#include <string>
#include <vector>

#include "base/status.h"
#include "base/topology.h"
#include "mpi/handles.h"
#include "mpi/meeting.h"

namespace kolo::core::mpi {

/// From now on this process does not finalise MPI when it exits, which would wait for ranks that do not
/// come: the launcher ends the job. Thread-safe.
void leave_mpi_unfinished();

/// What MPI's library calls itself, in a few words. MPI need not be running. Thread-safe.
std::string library_name();

/// Proof that MPI is running with sufficient thread support, and the ranks that Kolo runs on. Copies mean
/// the same.
class Session {
 public:
  struct Options {
    /// Of Kolo's ranks, which are numbered as in it. It outlives the session.
    MPI_Comm ranks = MPI_COMM_WORLD;
    /// While MPI starts, which takes all processes that the launcher has started.
    Patience patience;
  };

  /// Starts MPI if nobody has, asking for MPI_THREAD_MULTIPLE; whoever has started it must have got
  /// MPI_THREAD_SERIALIZED or better. What Kolo starts is finalised when the process exits, not
  /// before: MPI cannot be started twice, and kolo::init() after kolo::shutdown() has to work. A
  /// process that exits with a status other than 0 is not finalised, because that would wait for
  /// all other ranks, and they may be waiting for this one; the launcher then ends the job.
  ///
  /// Fails when MPI gives too little thread support, or was finalised already, or this process is none of
  /// the ranks. Thread-safe.
  static Result<Session> open(const Options& options);
  static Result<Session> open() { return open(Options{}); }

  /// Finalises MPI if it was started here and still runs; not in a child of fork(). Collective.
  static void end_own();

  /// `call` is called when anybody finalises MPI, while MPI can still be used. The last one counts. Not
  /// thread-safe.
  static Status before_end(void (*call)());

  /// All ranks; for who knows that they all come. Others may use it as well.
  MPI_Comm ranks() const { return ranks_; }

  /// A communicator of all ranks that nobody else uses. Collective over all ranks, as what follows.
  Result<Comm> duplicate_world() const;

  Result<Topology> topology() const;

  /// Of each, the lowest on its host.
  Result<std::vector<int>> hosts() const;

  /// What each has given, by rank.
  Result<std::vector<int>> all_gather(int own) const;

  /// What MPI provides: MPI_THREAD_SERIALIZED or MPI_THREAD_MULTIPLE.
  int thread_level() const { return thread_level_; }

 private:
  Session(MPI_Comm ranks, int thread_level) : ranks_(ranks), thread_level_(thread_level) {}

  MPI_Comm ranks_;
  int thread_level_;
};

}  // namespace kolo::core::mpi
