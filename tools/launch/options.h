// What the user asked for: kolorun's own command line and config file, checked.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "launch/hosts.h"

namespace kolo::launch {

enum class Binding { Automatic, None, Core, Numa };

struct LaunchOptions {
  bool help = false;
  bool version = false;
  bool dry_run = false;
  bool verbose = false;
  int num_proc = 1;
  std::vector<Host> hosts;  ///< never empty: this machine when the user named none
  std::optional<std::string> timeline_filename;  ///< absolute
  std::optional<std::uint64_t> fusion_threshold;
  std::optional<std::string> log_level;
  std::map<std::string, std::optional<std::string>> exported;  ///< -x NAME[=VALUE]
  Binding binding = Binding::Automatic;
  bool tag_output = false;
  std::string output_dir;  ///< absolute; empty: none
  std::chrono::seconds grace{30};
  std::chrono::seconds start_timeout{120};
  std::optional<std::string> network_interface;
  std::optional<int> ssh_port;
  std::optional<std::string> ssh_identity;  ///< absolute
  std::vector<std::string> mpirun_args;
  std::vector<std::string> command;  ///< the user's program and its arguments
};

/// Reads the arguments after argv[0]. With --help or --version the rest is not checked.
/// Throws UsageError.
LaunchOptions parse_options(const std::vector<std::string>& arguments);

}  // namespace kolo::launch
