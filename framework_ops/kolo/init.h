#pragma once

/// Life of Kolo in a process, and where this process stands among the others.

#include <torch/types.h>

namespace kolo {

/// Joins the other ranks. Collective: every rank calls it, and each as often as the others; only some do,
/// with a communicator of theirs, by init(MPI_Comm) of <kolo/mpi.h>. Ranks that do not come are named after
/// `KOLO_STALL_WARNING_SECONDS`, and `KOLO_STALL_ABORT_SECONDS` ends the wait with an error (or, while MPI
/// starts, with the process, after a message).
///
/// Under `kolorun` or `mpirun` it starts MPI, unless the program has already done so with at least
/// MPI_THREAD_SERIALIZED (in which case the program also keeps the duty to finalize it). Without a
/// launcher the process is the only rank and MPI is not started. Settings are read from `KOLO_*`
/// environment variables. A second call is a no-op; init after shutdown() works.
///
/// A process that was started as one of several, but not by a launcher of the MPI that Kolo uses, or by a
/// rank of another job, would be a rank by mistake: that is an error, too. With `KOLO_ALONE=1` it is the
/// only rank.
///
/// @throws kolo::Error when MPI was initialised with too low a thread level; on all ranks when they run
/// different builds of Kolo, a setting of one is bad, or one has no thread or no memory to start with; in a
/// child of fork() of a process that has called it.
void init();

/// Leaves. Waits until all ranks have called it, or have ended: until then they may still need this
/// rank's part of what was submitted. Operations that need a rank that has left fail on the others
/// with an error that names it. Ranks that do not come are named in the log after
/// `KOLO_STALL_WARNING_SECONDS`, and after `KOLO_STALL_ABORT_SECONDS` they are waited for no longer, with an
/// error in the log. Runs by itself at exit, and in MPI_Finalize() where the program calls that
/// first; harmless when not initialised, and in a child of fork().
///
/// MPI that Kolo has started is finalised by exit(0), a return of 0 from main(), and, after shutdown(), by
/// quick_exit(). _exit() and _Exit() run nothing, and mpirun takes them for a crash unless the program calls
/// MPI_Finalize() before.
void shutdown() noexcept;

/// False in a child of fork().
bool is_initialized() noexcept;

/// Rank of this process, 0 … size()-1. These throw kolo::Error before init() or after shutdown().
int rank();
/// Number of ranks (the world size).
int size();
/// Rank among the processes of this host, and their number.
int local_rank();
int local_size();
/// Rank among the processes with this local_rank() on all hosts (the host's index), and their number.
int cross_rank();
int cross_size();

/// The device that this rank is to use: its GPU, as the ranks of a host share them out, or the CPU
/// where there is none, or in a build without CUDA. @throws kolo::Error when the ranks of this host
/// cannot share its GPUs out.
torch::Device local_device();

}  // namespace kolo
