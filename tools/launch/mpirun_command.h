// From options and machine to the mpirun command line; nothing here touches the system.
#pragma once

#include <string>
#include <vector>

#include "launch/machine.h"
#include "launch/options.h"

namespace kolo::launch {

struct MpirunCommand {
  std::vector<std::string> arguments;  ///< argv[0] and mpirun's options
  std::vector<std::string> program;    ///< that each rank runs, and its arguments
  Environment environment;             ///< set on top of what mpirun inherits
};

/// `all_here`: every host of the options is this machine.
MpirunCommand make_mpirun_command(const LaunchOptions& options, const Machine& machine,
                                  bool all_here);

/// What run_to_end() needs besides: each rank is started by this `kolorun`, and everything that Open MPI keeps in
/// files is in the job's `folder`. Where a host is an IPv6 address, they are to be in folder/hosts as hostfile()
/// writes them.
MpirunCommand supervised(MpirunCommand command, const LaunchOptions& options,
                         const Machine& machine, const std::string& kolorun,
                         const std::string& folder);

/// A line for each host; empty when all can be given to -H.
std::string hostfile(const std::vector<Host>& hosts);

/// The command that reaches a host, up to that host's name.
std::vector<std::string> remote_shell(const LaunchOptions& options, const Machine& machine);

/// One line that a POSIX shell runs as the command.
std::string to_shell_line(const MpirunCommand& command);

}  // namespace kolo::launch
