#pragma once

/// Who has started this process as one of several, as the environment tells.

#include <functional>
#include <optional>
#include <string>
#include <string_view>

namespace kolo::core {

/// The value of a variable of the environment; nothing where it is not set.
using Lookup = std::function<std::optional<std::string>(std::string_view name)>;

struct Launcher {
  /// As messages name it, with its variables.
  std::string name;
  int rank = 0;
  /// 0: its variables do not tell.
  int size = 0;
  /// An MPI may know how to find the other processes. Where it does not, no MPI need be asked.
  bool of_mpi = false;

  /// What its processes call their job, where it says so; empty: nothing.
  std::string job;
  /// All its processes are on this host. Only Open MPI's tells.
  bool one_host = false;

  /// As far as it tells.
  bool started_one() const { return size == 1 && rank == 0; }
};

/// The innermost launcher: an mpirun inside of Slurm is the mpirun. What a Slurm allocation leaves
/// in a shell is none.
std::optional<Launcher> find_launcher(const Lookup& lookup);

/// Which place in a job the environment gives to a process, in all the words that launchers use for
/// it. A process that another one has started inherits it, and must not take that place. Empty:
/// none.
std::string place_in_job(const Lookup& lookup);

}  // namespace kolo::core
