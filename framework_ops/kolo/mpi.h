#pragma once

/// For programs of which only some ranks use Kolo: several programs under one mpirun, or a job
/// whose ranks share out different work. Needs MPI's headers; <kolo/kolo.h> does not include it.

#include <kolo/init.h>
#include <mpi.h>

namespace kolo {

/// As init(), with the ranks of this communicator, numbered as in it, in place of all. Collective
/// over the communicator: each of its ranks calls it. The program has started MPI, with at least
/// MPI_THREAD_SERIALIZED, and finalises it after shutdown(). It frees the communicator when it
/// likes: Kolo uses duplicates after init().
///
/// @throws kolo::Error also when the communicator is MPI_COMM_NULL, or has two groups.
void init(MPI_Comm communicator);

}  // namespace kolo
