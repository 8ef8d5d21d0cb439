// Facts about this machine and its network that decide how ranks are started.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "launch/hosts.h"

namespace kolo::launch {

using Environment = std::map<std::string, std::string>;

struct Machine {
  int cpus = 1;      ///< that this process may use, or that a quota of their time is enough for
  int packages = 0;  ///< equal parts they come in; 0: unknown, uneven or not all usable
  bool is_root = false;
  std::string mpirun = "mpirun";
  int open_mpi_major = 4;
  Environment environment;
};

/// Everything above. Throws UsageError when there is no usable mpirun.
Machine inspect_machine(Environment environment);

/// Throws UsageError when there is no network interface, not even lo: Open MPI does not start without.
void check_network();

/// PATH, or what execvp uses without one.
std::string search_path(const Environment& environment);

/// The 5 of "mpirun (Open MPI) 5.0.3"; nothing when that is no Open MPI.
std::optional<int> parse_open_mpi_major(const std::string& version_text);

enum class HostPlace { Here, Elsewhere, Unknown };

/// Resolves the name, unless it is "localhost" or this machine's own: is it this machine, another one, or can nobody say where it is?
HostPlace locate(const Host& host);

}  // namespace kolo::launch
