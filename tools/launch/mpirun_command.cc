#include "launch/mpirun_command.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <iterator>
#include <set>
#include <sstream>
#include <string_view>

#include "launch/rank_process.h"
#include "launch/values.h"

namespace kolo::launch {
namespace {

using Words = std::vector<std::string>;

void append(Words& words, const Words& more) {
  words.insert(words.end(), more.begin(), more.end());
}

/// A parameter of Open MPI, unless the user has set it. Since 5.0 what starts ranks is PRRTE.
enum class Part { Library, Launcher };

void set_parameter(Environment& environment, const Machine& machine, Part part,
                   const std::string& name, const std::string& value) {
  const bool prte = machine.open_mpi_major >= 5 && part == Part::Launcher;
  const auto variable = fmt::format("{}_MCA_{}", prte ? "PRTE" : "OMPI", name);
  if (!machine.environment.contains(variable)) environment[variable] = value;
}

/// For ssh when mpirun calls it. A question would wait for an answer that nobody can give.
Words ssh_arguments(const LaunchOptions& options) {
  Words words{"-o", "BatchMode=yes"};
  if (options.ssh_port) append(words, {"-p", std::to_string(*options.ssh_port)});
  if (options.ssh_identity) append(words, {"-i", *options.ssh_identity});
  return words;
}

void add_network(const LaunchOptions& options, const Machine& machine, bool all_here,
                 Environment& environment) {
  const bool prte = machine.open_mpi_major >= 5;
  if (options.network_interface) {
    const auto& name = *options.network_interface;
    set_parameter(environment, machine, Part::Library, "btl_tcp_if_include", name);
    set_parameter(environment, machine, Part::Launcher,
                  prte ? "prte_if_include" : "oob_tcp_if_include", name);
    if (!machine.environment.contains("NCCL_SOCKET_IFNAME")) {
      environment["NCCL_SOCKET_IFNAME"] = "=" + name;
    }
  }
  if (!all_here && !machine.environment.contains("OMPI_MCA_plm_rsh_agent")) {
    set_parameter(environment, machine, Part::Launcher, prte ? "plm_ssh_args" : "plm_rsh_args",
                  fmt::format("{}", fmt::join(ssh_arguments(options), " ")));
  }
  // Slurm's variables may be left over from an allocation that is no more: the hosts are those that were named.
  const bool slurm = std::any_of(machine.environment.begin(), machine.environment.end(),
                                 [](const auto& one) { return one.first.starts_with("SLURM_"); });
  if (slurm) {
    for (const auto* framework : {"ras", "plm"}) {
      set_parameter(environment, machine, Part::Launcher, framework, "^slurm");
    }
  }
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
  add_network(options, machine, all_here, environment);
  for (const auto& [name, value] : options.exported) {
    if (value) environment[name] = *value;
  }
  const int ranks =
      all_here ? options.num_proc : most_ranks_on_a_host(options.hosts, options.num_proc);
  const bool owns_remote_host = !all_here && ranks == 1;
  if (!machine.environment.contains("OMP_NUM_THREADS") &&
      !environment.contains("OMP_NUM_THREADS") && !owns_remote_host) {
    environment["OMP_NUM_THREADS"] = std::to_string(std::max(1, machine.cpus / ranks));
  }
  return environment;
}

bool goes_to_ranks(const std::string& name) {
  static constexpr std::array<std::string_view, 8> kPrefixes{"KOLO_", "NCCL_", "CUDA_",  "UCX_",
                                                             "OMP_",  "MKL_",  "TORCH_", "ATEN_"};
  static constexpr std::array<std::string_view, 3> kNames{"PATH", "LD_LIBRARY_PATH", "PYTHONPATH"};
  return std::any_of(kPrefixes.begin(), kPrefixes.end(),
                     [&](auto prefix) { return name.starts_with(prefix); }) ||
         std::find(kNames.begin(), kNames.end(), name) != kNames.end();
}

/// Names of the variables that mpirun is to hand to every rank.
std::set<std::string> exported_names(const LaunchOptions& options, const Environment& inherited,
                                     const Environment& added) {
  std::set<std::string> names;
  for (const auto* environment : {&inherited, &added}) {
    for (const auto& [name, value] : *environment) {
      if (goes_to_ranks(name)) names.insert(name);
    }
  }
  for (const auto& [name, value] : options.exported) names.insert(name);
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
  switch (options.binding) {
    case Binding::None:
    case Binding::Automatic:
      break;
    case Binding::Core:
      return {"--map-by", "core", "--bind-to", "core"};
    case Binding::Numa:
      return {"--map-by", "numa", "--bind-to", "numa"};
  }
  const bool prte = machine.open_mpi_major >= 5;
  if (!all_here) return {"--bind-to", "none"};
  if (options.num_proc > machine.cpus) {
    Words words{"--bind-to", "none", "--mca", "mpi_yield_when_idle", "1"};
    append(words, prte ? Words{"--map-by", ":OVERSUBSCRIBE"} : Words{"--oversubscribe"});
    return words;
  }
  const int share =
      options.binding == Binding::None ? 0 : cpus_to_bind(options.num_proc, machine);
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
/// options that look like its own (--bind-to becomes --bindto). A shell hides such words from it, and a name of a
/// program that looks like an option.
Words shielded(const Words& command, int open_mpi_major) {
  const bool exposed = std::any_of(command.begin(), command.end(), [&](const std::string& word) {
    return word == ":" || (open_mpi_major >= 5 && word.starts_with('-'));
  });
  const bool option = command.front().starts_with('-');
  if (!exposed && !option) return command;
  return {"/bin/sh", "-c", fmt::format("exec {}{}", option ? "env -- " : "", join_quoted(command))};
}

}  // namespace

MpirunCommand make_mpirun_command(const LaunchOptions& options, const Machine& machine,
                                  bool all_here) {
  MpirunCommand command;
  command.environment = environment_for(options, machine, all_here);
  auto& words = command.arguments;
  words = {machine.mpirun, "-np", std::to_string(options.num_proc), "-H", to_string(options.hosts)};
  append(words, placement(options, machine, all_here));
  for (const auto& name : exported_names(options, machine.environment, command.environment)) {
    append(words, {"-x", name});
  }
  append(words, options.mpirun_args);
  command.program = shielded(options.command, machine.open_mpi_major);
  return command;
}

MpirunCommand supervised(MpirunCommand command, const LaunchOptions& options,
                         const Machine& machine, const std::string& kolorun,
                         const std::string& folder) {
  auto& environment = command.environment;
  const bool prte = machine.open_mpi_major >= 5;
  const auto set = [&](Part part, const std::string& name, const std::string& value) {
    set_parameter(environment, machine, part, name, value);
  };
  // Given here, so that the two that Kolo adds do not take the place of those that are forwarded by default.
  set(Part::Launcher, "ess_base_forward_signals",
      fmt::format("{}{},{}", prte ? "SIGUSR1,SIGUSR2,SIGTSTP,SIGCONT," : "", kForwardedSigterm,
                  kForwardedSigint));
  set(Part::Library, "opal_signal", "");  // no stack traces beside a program's last words
  set(Part::Library, prte ? "btl_sm_backing_directory" : "btl_vader_backing_directory", folder);
  // On this host only: elsewhere nobody would be left to remove it.
  if (!machine.environment.contains("OMPI_MCA_orte_tmpdir_base")) {
    set(Part::Launcher, prte ? "prte_local_tmpdir_base" : "orte_local_tmpdir_base", folder);
  }
  if (!hostfile(options.hosts).empty()) {
    const auto list = std::find(command.arguments.begin(), command.arguments.end(), "-H");
    list[0] = "--hostfile";
    list[1] = folder + "/hosts";
    if (!prte) set(Part::Launcher, "regx", "naive");  // which takes colons in names
  }
  command.program.insert(command.program.begin(), {kolorun, kRankWord, folder});
  return command;
}

std::string hostfile(const std::vector<Host>& hosts) {
  std::string lines;
  for (const auto& host : hosts) lines += fmt::format("{} slots={}\n", host.name, host.slots);
  return std::any_of(hosts.begin(), hosts.end(), is_ipv6) ? lines : "";
}

Words remote_shell(const LaunchOptions& options, const Machine& machine) {
  const auto agent = machine.environment.find(
      machine.open_mpi_major >= 5 ? "PRTE_MCA_plm_ssh_agent" : "OMPI_MCA_plm_rsh_agent");
  if (agent != machine.environment.end()) {
    std::istringstream text(agent->second.substr(0, agent->second.find(':')));
    return {std::istream_iterator<std::string>(text), {}};
  }
  Words words{"ssh"};
  append(words, ssh_arguments(options));
  return words;
}

std::string to_shell_line(const MpirunCommand& command) {
  std::string line;
  for (const auto& [name, value] : command.environment) {
    line += fmt::format("{}={} ", name, shell_quote(value));
  }
  return fmt::format("{}{} {}", line, join_quoted(command.arguments), join_quoted(command.program));
}

}  // namespace kolo::launch
