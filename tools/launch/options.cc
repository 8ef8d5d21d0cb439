#include "launch/options.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <sstream>
#include <string_view>

#include "launch/files.h"
#include "launch/option_table.h"
#include "launch/usage_error.h"
#include "launch/values.h"

namespace kolo::launch {
namespace {

namespace po = boost::program_options;
using Words = std::vector<std::string>;

constexpr int kLastPort = 65535;
constexpr std::array<std::string_view, 6> kLogLevels{"trace",   "debug", "info",
                                                     "warning", "error", "off"};

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

std::chrono::seconds seconds_of(const po::variables_map& values, const std::string& name,
                                std::chrono::seconds otherwise) {
  const auto text = text_of(values, name);
  if (!text) return otherwise;
  const auto count = *text == "0" ? std::optional(0) : parse_count(*text);
  if (!count) {
    throw UsageError(fmt::format("--{} '{}' is not a whole number of seconds from 0 to {}", name,
                                 *text, kMaxCount));
  }
  return std::chrono::seconds(*count);
}

void set_output(LaunchOptions& options, const po::variables_map& values) {
  options.tag_output = values["tag-output"].as<bool>();
  if (const auto path = text_of(values, "output-dir")) {
    if (path->empty()) throw UsageError("--output-dir is empty: name a folder");
    options.output_dir = std::filesystem::absolute(*path).lexically_normal().string();
  }
}

/// mpirun splits ssh's arguments at blanks, and knows no quotes.
void check_identity(const std::string& path) {
  read_file(path, "--ssh-identity");
  if (path.find_first_of(" \t\n") != std::string::npos) {
    throw UsageError(fmt::format(
        "--ssh-identity '{}': mpirun takes no blanks in it: link it to another path", path));
  }
}

void set_ssh(LaunchOptions& options, const po::variables_map& values) {
  if (const auto text = text_of(values, "ssh-port")) {
    options.ssh_port = parse_count(*text);
    if (!options.ssh_port || *options.ssh_port > kLastPort) {
      throw UsageError(
          fmt::format("--ssh-port '{}' is not a port from 1 to {}", *text, kLastPort));
    }
  }
  if (const auto path = text_of(values, "ssh-identity")) {
    options.ssh_identity = std::filesystem::absolute(*path).lexically_normal().string();
    check_identity(*options.ssh_identity);
  }
}

void set_start(LaunchOptions& options, const po::variables_map& values) {
  options.grace = seconds_of(values, "grace", options.grace);
  options.start_timeout = seconds_of(values, "start-timeout", options.start_timeout);
  if (const auto name = text_of(values, "network-interface")) {
    if (name->empty() || name->find_first_of(" \t/") != std::string::npos) {
      throw UsageError(fmt::format(
          "--network-interface '{}' is not the name of one, for example eth0; 'ip link' lists them",
          *name));
    }
    options.network_interface = *name;
  }
  if (const auto text = text_of(values, "mpirun-args")) {
    try {
      options.mpirun_args = po::split_unix(*text);
    } catch (const std::exception& error) {
      throw UsageError(fmt::format("--mpirun-args '{}': {}", *text, error.what()));
    }
  }
}

void set_binding(LaunchOptions& options, const po::variables_map& values) {
  static const std::map<std::string, Binding> kBindings{
      {"none", Binding::None}, {"core", Binding::Core}, {"numa", Binding::Numa}};
  const auto text = text_of(values, "bind");
  if (!text) return;
  const auto found = kBindings.find(*text);
  if (found == kBindings.end()) {
    throw UsageError(fmt::format("--bind '{}' is none of none, core, numa", *text));
  }
  options.binding = found->second;
}

void set_exported(LaunchOptions& options, const po::variables_map& values) {
  if (values.count("env") == 0) return;
  for (const auto& text : values["env"].as<Words>()) {
    const auto equals = text.find('=');
    const auto name = text.substr(0, equals);
    if (name.empty()) {
      throw UsageError(
          fmt::format("-x '{}': write NAME or NAME=VALUE, for example -x NCCL_DEBUG=INFO", text));
    }
    auto& value = options.exported[name];
    if (equals != std::string::npos) value = text.substr(equals + 1);
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
  set_output(options, values);
  set_ssh(options, values);
  set_start(options, values);
  set_binding(options, values);
  set_exported(options, values);
  if (command.empty()) {
    throw UsageError(
        "no program is given: write it after the options, for example kolorun -np 2 ./train");
  }
  return options;
}

}  // namespace kolo::launch
