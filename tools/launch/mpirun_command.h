// From options and machine to the mpirun command line; nothing here touches the system.
#pragma once

#include <string>
#include <vector>

#include "launch/machine.h"
#include "launch/options.h"

namespace kolo::launch {

struct MpirunCommand {
  std::vector<std::string> arguments;  ///< argv[0] included
  Environment environment;             ///< set on top of what mpirun inherits
};

/// `all_here`: every host of the options is this machine.
MpirunCommand make_mpirun_command(const LaunchOptions& options, const Machine& machine,
                                  bool all_here);

/// One line that a POSIX shell runs as the command.
std::string to_shell_line(const MpirunCommand& command);

}  // namespace kolo::launch
