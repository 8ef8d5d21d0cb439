// What the user asked for: kolorun's own command line and config file, checked.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "launch/hosts.h"

namespace kolo::launch {

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
  std::vector<std::string> command;  ///< the user's program and its arguments
};

/// Reads the arguments after argv[0]. With --help or --version the rest is not checked.
/// Throws UsageError.
LaunchOptions parse_options(const std::vector<std::string>& arguments);

/// What --help prints.
std::string help_text();

}  // namespace kolo::launch
