#include "launch/mpirun_command.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <set>

#include "launch/values.h"

namespace kolo::launch {
namespace {

using Words = std::vector<std::string>;

void append(Words& words, const Words& more) {
  words.insert(words.end(), more.begin(), more.end());
}

Environment environment_for(const LaunchOptions& options, const Machine& machine, bool all_here) {
  Environment environment;
  if (machine.is_root) {
    Words names{"OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"};
    if (machine.open_mpi_major >= 5) {
      append(names, {"PRTE_ALLOW_RUN_AS_ROOT", "PRTE_ALLOW_RUN_AS_ROOT_CONFIRM"});
    }
    for (const auto& name : names) environment.emplace(name, "1");
  }
  if (options.timeline_filename) environment["KOLO_TIMELINE"] = *options.timeline_filename;
  if (options.fusion_threshold) {
    environment["KOLO_FUSION_THRESHOLD"] = std::to_string(*options.fusion_threshold);
  }
  if (options.log_level) environment["KOLO_LOG_LEVEL"] = *options.log_level;
  // With PMIx's tables in shared memory, the default, mpirun may not end when a rank was killed
  // while it started.
  if (machine.open_mpi_major < 5 && !machine.environment.contains("PMIX_MCA_gds")) {
    environment["PMIX_MCA_gds"] = "hash";
  }
  const int ranks =
      all_here ? options.num_proc : most_ranks_on_a_host(options.hosts, options.num_proc);
  const bool owns_remote_host = !all_here && ranks == 1;
  if (!machine.environment.contains("OMP_NUM_THREADS") && !owns_remote_host) {
    environment["OMP_NUM_THREADS"] = std::to_string(std::max(1, machine.cpus / ranks));
  }
  return environment;
}

/// Names of the variables that mpirun is to hand to every rank.
std::set<std::string> exported_names(const Environment& inherited, const Environment& added) {
  std::set<std::string> names;
  for (const auto* environment : {&inherited, &added}) {
    for (const auto& [name, value] : *environment) {
      if (name.starts_with("KOLO_") || name == "PATH" || name == "LD_LIBRARY_PATH" ||
          name == "PYTHONPATH" || name == "OMP_NUM_THREADS") {
        names.insert(name);
      }
    }
  }
  return names;
}

/// CPUs to bind each of `ranks` local ranks to; 0 where mpirun might refuse, or gain nothing.
/// Open MPI 5 does not bind a rank to CPUs of two packages.
int cpus_to_bind(int ranks, const Machine& machine) {
  if (ranks == 1 || ranks > machine.cpus || machine.packages == 0) return 0;
  const int share = machine.cpus / ranks;
  const bool fits = machine.packages == 1 || machine.cpus / machine.packages % share == 0;
  return fits ? share : 0;
}

/// A CPU is a hardware thread throughout, as in the affinity mask that counted them. mpirun would
/// count cores, and refuse two ranks on one core with two threads.
Words placement(const LaunchOptions& options, const Machine& machine, bool all_here) {
  const bool prte = machine.open_mpi_major >= 5;
  if (!all_here) return {"--bind-to", "none"};
  if (options.num_proc > machine.cpus) {
    Words words{"--bind-to", "none", "--mca", "mpi_yield_when_idle", "1"};
    append(words, prte ? Words{"--map-by", ":OVERSUBSCRIBE"} : Words{"--oversubscribe"});
    return words;
  }
  const int share = cpus_to_bind(options.num_proc, machine);
  if (share == 0) return {"--bind-to", "none"};
  if (prte) return {"--map-by", fmt::format("slot:PE={}:HWTCPUS", share), "--bind-to", "hwthread"};
  return {"--use-hwthread-cpus", "--map-by", fmt::format("slot:PE={}", share), "--bind-to",
          "hwthread"};
}

std::string join_quoted(Words words) {
  for (auto& word : words) word = shell_quote(word);
  return fmt::format("{}", fmt::join(words, " "));
}

/// mpirun reads on beyond the program: a lone ':' begins a second program, and Open MPI 5 rewrites
/// options that look like its own (--bind-to becomes --bindto). A shell hides such words from it.
Words shielded(const Words& command, int open_mpi_major) {
  const bool exposed = std::any_of(command.begin(), command.end(), [&](const std::string& word) {
    return word == ":" || (open_mpi_major >= 5 && word.starts_with('-'));
  });
  if (!exposed) return command;
  return {"/bin/sh", "-c", fmt::format("exec {}", join_quoted(command))};
}

}  // namespace

MpirunCommand make_mpirun_command(const LaunchOptions& options, const Machine& machine,
                                  bool all_here) {
  MpirunCommand command;
  command.environment = environment_for(options, machine, all_here);
  auto& words = command.arguments;
  words = {machine.mpirun, "-np", std::to_string(options.num_proc), "-H", to_string(options.hosts)};
  append(words, placement(options, machine, all_here));
  for (const auto& name : exported_names(machine.environment, command.environment)) {
    append(words, {"-x", name});
  }
  append(words, shielded(options.command, machine.open_mpi_major));
  return command;
}

std::string to_shell_line(const MpirunCommand& command) {
  std::string line;
  for (const auto& [name, value] : command.environment) {
    line += fmt::format("{}={} ", name, shell_quote(value));
  }
  return line + join_quoted(command.arguments);
}

}  // namespace kolo::launch
