// Processes that kolorun starts, and those that they leave behind.
#pragma once

#include <sys/types.h>

namespace kolo::launch {

/// Whether the process has children that run. True where that cannot be told.
bool has_children(pid_t parent);

/// Ends what mpirun has left on this machine, which this process has adopted: waits for it, asks,
/// kills; or kills at once.
void end_leftovers(bool at_once);

}  // namespace kolo::launch
