// Runs mpirun as a child that never outlives kolorun, and leaves nothing of it behind.
#pragma once

#include "launch/mpirun_command.h"

namespace kolo::launch {

/// Starts the command and waits for its end. SIGINT, SIGTERM, SIGHUP, SIGUSR1 and SIGUSR2 are
/// passed on; a second SIGINT ends everything at once. Processes that mpirun leaves on this machine
/// are ended, too. If this process is killed, mpirun gets SIGTERM, and ends its ranks.
///
/// Returns what kolorun is to exit with: mpirun's exit code, or 128 + signal when a signal ended
/// mpirun or told this process to stop.
int run_to_end(const MpirunCommand& command);

}  // namespace kolo::launch
