// kolorun: starts a Kolo program on N ranks by mpirun.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "launch/files.h"
#include "launch/job_folder.h"
#include "launch/machine.h"
#include "launch/mpirun_command.h"
#include "launch/option_table.h"
#include "launch/options.h"
#include "launch/place_in_job.h"
#include "launch/process.h"
#include "launch/rank_process.h"
#include "launch/start_check.h"
#include "launch/usage_error.h"

namespace kolo::launch {
namespace {

constexpr int kCannotStart = 2;

Environment read_environment() {
  Environment environment;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string text(*entry);
    const auto equals = text.find('=');
    if (equals != std::string::npos) environment[text.substr(0, equals)] = text.substr(equals + 1);
  }
  return environment;
}

std::vector<HostPlace> locate_all(const std::vector<Host>& hosts) {
  std::vector<HostPlace> places;
  for (const auto& host : hosts) places.push_back(locate(host));
  return places;
}

void check_hosts(const std::vector<Host>& hosts, const std::vector<HostPlace>& places) {
  const auto unknown = std::find(places.begin(), places.end(), HostPlace::Unknown);
  if (unknown == places.end()) return;
  throw UsageError(
      fmt::format("host '{}' cannot be resolved: check its spelling, or add it to /etc/hosts",
                  hosts[static_cast<std::size_t>(unknown - places.begin())].name));
}

void check_program(const std::string& name, const std::string& search_path) {
  switch (find_program(name, search_path)) {
    case ProgramState::Ready:
      return;
    case ProgramState::Missing:
      throw UsageError(
          fmt::format("program '{}' is not found{}", name,
                      name.find('/') == std::string::npos
                          ? fmt::format(" in PATH: for one in this folder write ./{}", name)
                          : std::string(": check the path, or build it first")));
    case ProgramState::NotExecutable:
      throw UsageError(
          fmt::format("program '{}' is not executable: check the name, or chmod +x it", name));
  }
}

/// A dry run starts nothing, so there it only warns.
void check(const LaunchOptions& options, const std::function<void()>& body) {
  try {
    body();
  } catch (const UsageError& error) {
    if (!options.dry_run) throw;
    fmt::print(stderr, "kolorun: warning: {}\n", error.what());
  }
}

void check_binding(const LaunchOptions& options, const Machine& machine) {
  if (options.binding != Binding::Core && options.binding != Binding::Numa) return;
  if (options.num_proc > machine.cpus) {
    throw UsageError(fmt::format(
        "--bind core and numa need a CPU for each rank: {} ranks on {} CPUs take --bind none",
        options.num_proc, machine.cpus));
  }
}

/// The whole path of this program, which other hosts need to have, too.
std::string own_path() {
  std::error_code error;
  const auto path = std::filesystem::read_symlink("/proc/self/exe", error);
  return error ? "kolorun" : path.string();
}

/// mpirun takes this machine's IPv6 addresses for those of another one.
void rename_here(std::vector<Host>& hosts, const std::vector<HostPlace>& places) {
  for (std::size_t i = 0; i < hosts.size(); ++i) {
    if (places[i] == HostPlace::Here && is_ipv6(hosts[i])) hosts[i].name = "localhost";
  }
}

std::vector<Host> hosts_elsewhere(const std::vector<Host>& hosts,
                                  const std::vector<HostPlace>& places) {
  std::vector<Host> elsewhere;
  for (std::size_t i = 0; i < hosts.size(); ++i) {
    if (places[i] == HostPlace::Elsewhere) elsewhere.push_back(hosts[i]);
  }
  return elsewhere;
}

int run_job(const LaunchOptions& options, const Machine& machine, const MpirunCommand& command,
            const std::vector<Host>& elsewhere) {
  const auto folder = JobFolder::create();
  const auto list = hostfile(options.hosts);
  if (!list.empty()) std::ofstream(folder.path() + "/hosts") << list;
  Job job;
  job.command = supervised(command, options, machine, own_path(), folder.path());
  job.ranks = options.num_proc;
  job.grace = options.grace;
  job.start_timeout = options.start_timeout;
  job.tag_output = options.tag_output;
  job.output_dir = options.output_dir;
  job.verbose = options.verbose;
  job.explain_missing = [&] { return explain_missing(remote_shell(options, machine), elsewhere); };
  return run_to_end(job);
}

int launch(LaunchOptions options) {
  const auto machine = inspect_machine(read_environment());
  const auto places = locate_all(options.hosts);
  const auto here = std::count(places.begin(), places.end(), HostPlace::Here);
  const bool all_here = std::cmp_equal(here, places.size());
  check(options, [&] { check_hosts(options.hosts, places); });
  check(options, [&] { check_network(); });
  check(options, [&] {
    if (here > 0) check_program(options.command[0], search_path(machine.environment));
  });
  check(options, [&] {
    // Rank 0 writes it, and mpirun puts ranks on this machine first, wherever it is named.
    if (here > 0 && options.timeline_filename) {
      check_writable(*options.timeline_filename, "--timeline-filename");
    }
  });
  check(options, [&] {
    if (all_here) check_binding(options, machine);
  });
  rename_here(options.hosts, places);
  const auto command = make_mpirun_command(options, machine, all_here);
  if (options.dry_run) {
    fmt::print("{}\n", to_shell_line(command));
    return 0;
  }
  if (options.verbose) fmt::print(stderr, "{}\n", to_shell_line(command));
  return run_job(options, machine, command, hosts_elsewhere(options.hosts, places));
}

int run(const std::vector<std::string>& arguments) {
  if (arguments.size() > 2 && arguments[0] == kRankWord) {
    return run_rank(arguments[1], {arguments.begin() + 2, arguments.end()});
  }
  forget_place_in_job();
  const auto options = parse_options(arguments);
  if (options.help) {
    fmt::print("{}", help_text());
    return 0;
  }
  if (options.version) {
    fmt::print("kolorun {}\n", KOLO_VERSION);
    return 0;
  }
  return launch(options);
}

}  // namespace
}  // namespace kolo::launch

int main(int argc, char** argv) {
  try {
    return kolo::launch::run({argv + std::min(argc, 1), argv + argc});
  } catch (const std::exception& error) {
    fmt::print(stderr, "kolorun: {}\n", error.what());
    return kolo::launch::kCannotStart;
  }
}
