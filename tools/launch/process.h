// Runs mpirun as a child that never outlives kolorun, and leaves nothing of it behind.
#pragma once

#include <chrono>
#include <functional>
#include <string>

#include "launch/mpirun_command.h"

namespace kolo::launch {

struct Job {
  MpirunCommand command;  ///< which starts each rank by run_rank()
  int ranks = 1;
  std::chrono::seconds grace{30};           ///< between a signal and the end of the ranks
  std::chrono::seconds start_timeout{120};  ///< until all ranks run
  bool tag_output = false;
  std::string output_dir;  ///< empty: none
  bool verbose = false;    ///< mpirun's words are printed also where kolorun's say the same
  /// Why ranks may not have come, for a message.
  std::function<std::string()> explain_missing;
};

/// Starts the job and waits for its end:
///
/// event                             | what follows
/// SIGINT, SIGTERM, SIGHUP           | goes to all ranks (the last one as SIGTERM), which have `grace` to end
/// another of them, or time is over  | mpirun ends them: after the second signal at once, with SIGKILL
/// SIGPIPE, or nobody reads output   | mpirun ends them
/// SIGUSR1, SIGUSR2                  | go to mpirun, which passes them on
/// a rank fails                      | mpirun ends the others; how each failed is printed
/// not all ranks have started        | after `start_timeout`: who is missing is printed, mpirun ends the others
/// mpirun is left without ranks      | after 5 s, it is killed
/// mpirun has ended                  | what it leaves on this machine is ended
/// this process is killed            | mpirun gets SIGTERM, and ends its ranks
///
/// The terminal's signals reach mpirun through this process alone, which puts it into a group of
/// its own.
///
/// Returns what kolorun is to exit with: 128 + signal when a signal told it to stop; else the exit
/// code of the rank that failed first, or mpirun's. Throws UsageError when the job cannot be
/// started.
int run_to_end(const Job& job);

}  // namespace kolo::launch
