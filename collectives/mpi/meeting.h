#pragma once

/// Ranks meet for the first time: the one collective of which it is not known that all take part.
///
///   state    meaning                                leaves it
///   -------  -------------------------------------  ------------------------------------------
///   Waiting  the rank's word is on its way to all   all words are here -> Met; some time before
///                                                   the patience ends, or another rank's call
///                                                   -> Calling
///   Calling  it has told every rank, by a message   all words are here -> Met; patience ends
///            without content, that it waits; and    -> GivenUp; whenever a warning is due, it
///            hears who else does                    knows who has not come
///   Met      each hears who has called, and takes   that is over: all go on
///            those messages from MPI
///   GivenUp  an error that names who has not come   MPI is not finalised by Kolo any more
///
/// Calls are messages on the communicator given, with a tag of their own; there are none unless
/// ranks wait for long. Ranks that come late find them, and read them in Met.

#include <chrono>
#include <cstddef>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "mpi/handles.h"

namespace kolo::core::mpi {

/// How long is waited for other ranks, and who is told. Of a time that is 0, for ever.
struct Patience {
  std::chrono::duration<double> warn_after{0};
  std::chrono::duration<double> give_up_after{0};
  /// Thread-safe.
  std::function<void(const std::string&)> warn = [](const std::string&) {};
};

/// Collective over `comm`: the words of all ranks, in their order; all are as long. While it waits,
/// the lowest rank that has come warns, and names those that have not. Fails when the patience
/// ends.
Result<std::vector<std::vector<std::byte>>> meet(MPI_Comm comm, std::span<const std::byte> word,
                                                 const Patience& patience);

}  // namespace kolo::core::mpi
