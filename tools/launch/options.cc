#include "launch/options.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <boost/program_options.hpp>
#include <filesystem>
#include <sstream>
#include <string_view>

#include "launch/files.h"
#include "launch/usage_error.h"
#include "launch/values.h"

namespace kolo::launch {
namespace {

namespace po = boost::program_options;
using Words = std::vector<std::string>;

constexpr std::array<std::string_view, 6> kLogLevels{"trace",   "debug", "info",
                                                     "warning", "error", "off"};

constexpr std::string_view kUsage =
    R"(Starts a Kolo program on N ranks, here or on several hosts, by Open MPI's mpirun.

Usage:
  kolorun [options] program [arguments of the program]

Examples:
  kolorun -np 2 ./train --epochs 3           two ranks on this machine
  kolorun -np 4 -H node1:2,node2:2 ./train   two ranks on each of two hosts
  kolorun --hostfile hosts.txt ./train       one rank for each slot of the file
  kolorun -np 2 --timeline-filename t.json ./train
                                             a timeline for ui.perfetto.dev
  kolorun -np 4 --dry-run ./train            only prints the mpirun line

The options end at the first word that is not one, or at --.
)";

constexpr std::string_view kNotes = R"(
What the ranks get:
  Every KOLO_* variable (an option above overrides its variable), PATH,
  LD_LIBRARY_PATH, PYTHONPATH and OMP_NUM_THREADS. Unless you set it,
  OMP_NUM_THREADS shares this machine's CPUs between the ranks of a host; remote
  hosts are taken to be alike. When several ranks run on this machine alone and
  its CPUs can be shared evenly, each rank is bound to its own. The program must
  be at the same path on all hosts, and ssh to them must ask for no password.

Config file (--config):
  One 'name = value' a line, '#' begins a comment; the command line wins.
    np = 4
    hosts = node1:2,node2:2
    fusion-threshold = 64MiB

Environment of kolorun itself:
  KOLO_MPIRUN   the mpirun to use instead of the first one in PATH

Exit code:
  0 when every rank ended well; otherwise that of the first rank that failed, or
  128 + the signal that ended it. When a signal stops kolorun, 128 + that signal
  (Ctrl-C: 130; a second one ends everything at once). 2 when kolorun could not
  start the program; the message says what to do.
)";

po::options_description run_options() {
  po::options_description options("What to run, and where (also in --config)");
  const auto text = [](const char* name) { return po::value<std::string>()->value_name(name); };
  auto add = options.add_options();
  add("np,n", text("N"),
      "number of ranks, also -np, --num-proc (default: all slots of the hosts given, else 1)");
  add("hosts,H", text("LIST"),
      "host:slots,... in the order to fill them, but this machine first; a host without slots "
      "takes one rank (default: this machine)");
  add("hostfile", text("FILE"),
      "the hosts as a file: 'host', 'host:slots' or 'host slots=N' a line, '#' begins a comment");
  add("timeline-filename", text("FILE"), "write a Chrome trace there (KOLO_TIMELINE)");
  add("fusion-threshold", text("BYTES"),
      "bytes of gradients that travel together, for example 64MiB (KOLO_FUSION_THRESHOLD)");
  add("log-level", text("LEVEL"), "trace, debug, info, warning, error or off (KOLO_LOG_LEVEL)");
  return options;
}

po::options_description launcher_options() {
  po::options_description options("About kolorun itself");
  auto add = options.add_options();
  add("config", po::value<std::string>()->value_name("FILE"), "read options from a file");
  add("dry-run", po::bool_switch(), "print the mpirun line, ready to paste, and start nothing");
  add("verbose", po::bool_switch(), "print the mpirun line before it runs");
  add("version", po::bool_switch(), "print the version");
  add("help,h", po::bool_switch(), "print this text");
  return options;
}

po::options_description all_options() {
  po::options_description options;
  options.add(run_options()).add(launcher_options());
  return options;
}

/// mpirun's -np and Horovod's --num-proc are Boost's --np.
std::string boost_spelling(const std::string& word) {
  static constexpr std::string_view kLong = "--num-proc";
  if (word == "-np" || word == kLong) return "--np";
  if (word.starts_with("--num-proc=")) return fmt::format("--np{}", word.substr(kLong.size()));
  return word;
}

bool takes_next_word(const std::string& option, const po::options_description& known) {
  const bool is_long = option.starts_with("--");
  const auto* const found = known.find_nothrow(is_long ? option.substr(2) : option, false);
  return found != nullptr && found->semantic()->max_tokens() > 0;
}

/// Splits at the first word that is neither an option nor its value: {options, command}.
std::pair<Words, Words> split_arguments(const Words& arguments,
                                        const po::options_description& known) {
  Words options;
  auto word = arguments.begin();
  while (word != arguments.end() && word->size() > 1 && word->front() == '-' && *word != "--") {
    options.push_back(boost_spelling(*word++));
    if (word != arguments.end() && takes_next_word(options.back(), known)) {
      options.push_back(*word++);
    }
  }
  if (word != arguments.end() && *word == "--") ++word;
  return {options, Words(word, arguments.end())};
}

po::variables_map read_command_line(const Words& options, const po::options_description& known) {
  namespace style = po::command_line_style;
  po::variables_map values;
  try {
    po::store(po::command_line_parser(options)
                  .options(known)
                  .style(style::unix_style & ~style::allow_guessing)
                  .run(),
              values);
  } catch (const po::error& error) {
    throw UsageError(fmt::format("{}; see kolorun --help", error.what()));
  }
  return values;
}

/// Adds what the file says and the command line has left open.
void read_config(const std::string& path, po::variables_map& values) {
  std::istringstream text(read_file(path, "config file"));
  const auto known = run_options();  // po::store() still reads it
  try {
    auto parsed = po::parse_config_file(text, known);
    if (values.count("hosts") + values.count("hostfile") > 0) {
      std::erase_if(parsed.options, [](const po::option& option) {
        return option.string_key == "hosts" || option.string_key == "hostfile";
      });
    }
    po::store(parsed, values);
  } catch (const po::error& error) {
    throw UsageError(fmt::format("config file '{}': {}; see kolorun --help", path, error.what()));
  }
}

std::optional<std::string> text_of(const po::variables_map& values, const std::string& name) {
  if (values.count(name) == 0) return std::nullopt;
  return values[name].as<std::string>();
}

std::vector<Host> read_hosts(const po::variables_map& values) {
  const auto list = text_of(values, "hosts");
  const auto path = text_of(values, "hostfile");
  if (list && path) {
    throw UsageError("both -H and --hostfile are given: choose one of them");
  }
  if (list) return parse_hosts(*list);
  if (!path) return {};
  std::istringstream lines(read_file(*path, "hostfile"));
  return parse_hostfile(lines, *path);
}

void set_ranks(LaunchOptions& options, const po::variables_map& values) {
  options.hosts = read_hosts(values);
  const int slots = total_slots(options.hosts);
  options.num_proc = std::max(slots, 1);
  if (const auto text = text_of(values, "np")) {
    const auto count = parse_count(*text);
    if (!count) {
      throw UsageError(fmt::format(
          "-np '{}': the number of ranks is a whole number from 1 to {}, for example -np 2", *text,
          kMaxCount));
    }
    options.num_proc = *count;
  }
  if (options.hosts.empty()) {
    options.hosts.push_back({"localhost", options.num_proc});
  } else if (options.num_proc > slots) {
    throw UsageError(
        fmt::format("-np {} is more than the {} slots of the hosts {}: lower -np to {}, or give "
                    "the hosts more slots",
                    options.num_proc, slots, to_string(options.hosts), slots));
  }
}

void set_kolo_values(LaunchOptions& options, const po::variables_map& values) {
  if (const auto path = text_of(values, "timeline-filename")) {
    if (path->empty()) throw UsageError("--timeline-filename is empty: name a file");
    options.timeline_filename = std::filesystem::absolute(*path).lexically_normal().string();
  }
  if (const auto text = text_of(values, "fusion-threshold")) {
    options.fusion_threshold = parse_bytes(*text);
    if (!options.fusion_threshold) {
      throw UsageError(
          fmt::format("--fusion-threshold '{}' is not a size: write bytes, or K, M, G (also KiB, "
                      "MiB, GiB), for example 64MiB",
                      *text));
    }
  }
  options.log_level = text_of(values, "log-level");
  if (options.log_level &&
      std::find(kLogLevels.begin(), kLogLevels.end(), *options.log_level) == kLogLevels.end()) {
    throw UsageError(fmt::format("--log-level '{}' is none of {}", *options.log_level,
                                 fmt::join(kLogLevels, ", ")));
  }
}

}  // namespace

LaunchOptions parse_options(const std::vector<std::string>& arguments) {
  const auto known = all_options();
  const auto [option_words, command] = split_arguments(arguments, known);
  auto values = read_command_line(option_words, known);
  LaunchOptions options;
  options.help = values["help"].as<bool>();
  options.version = values["version"].as<bool>();
  options.dry_run = values["dry-run"].as<bool>();
  options.verbose = values["verbose"].as<bool>();
  options.command = command;
  if (options.help || options.version) return options;
  if (const auto path = text_of(values, "config")) read_config(*path, values);
  set_ranks(options, values);
  set_kolo_values(options, values);
  if (command.empty()) {
    throw UsageError(
        "no program is given: write it after the options, for example kolorun -np 2 ./train");
  }
  return options;
}

std::string help_text() {
  std::ostringstream text;
  text << kUsage << all_options() << kNotes;
  return text.str();
}

}  // namespace kolo::launch
