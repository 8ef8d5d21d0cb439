#include "base/config.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <cstdlib>
#include <optional>
#include <set>
#include <string_view>

extern char** environ;

namespace kolo::core {
namespace {

constexpr std::string_view kFusionThreshold = "KOLO_FUSION_THRESHOLD";
constexpr std::string_view kTimeline = "KOLO_TIMELINE";
constexpr std::string_view kLogLevel = "KOLO_LOG_LEVEL";
constexpr std::string_view kStallWarning = "KOLO_STALL_WARNING_SECONDS";
constexpr std::string_view kStallAbort = "KOLO_STALL_ABORT_SECONDS";
constexpr std::string_view kSharedMemory = "KOLO_SHARED_MEMORY";
constexpr std::string_view kSharedGpu = "KOLO_SHARED_GPU";

constexpr std::string_view kGpuBetweenHosts = "KOLO_GPU_BETWEEN_HOSTS";
constexpr std::string_view kAlone = "KOLO_ALONE";
constexpr std::string_view kCheckEqual = "KOLO_CHECK_EQUAL";

constexpr std::array kKnown = {kFusionThreshold, kTimeline,  kLogLevel,        kStallWarning, kStallAbort,
                               kSharedMemory,    kSharedGpu, kGpuBetweenHosts, kAlone,
                               kCheckEqual};

/// Set by mark_as_rank(): a process's number, and its place in its job.
constexpr const char* kRankMark = "KOLO_RANK_PROCESS";

constexpr std::array kChecks = {CheckEqual::Off, CheckEqual::Warn, CheckEqual::Error};
constexpr std::array<std::string_view, 6> kLogLevels = {"trace",   "debug", "info",
                                                        "warning", "error", "off"};

Status bad_value(std::string_view name, std::string_view value, std::string_view accepted) {
  return Status::error(fmt::format("{}='{}' is not valid: expected {}", name, value, accepted));
}

std::optional<std::int64_t> parse_bytes(std::string_view text) {
  std::int64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc{} || number < 0) return std::nullopt;
  const std::string_view suffix(end, static_cast<std::size_t>(text.data() + text.size() - end));
  int shift = 0;
  if (suffix == "KiB") {
    shift = 10;
  } else if (suffix == "MiB") {
    shift = 20;
  } else if (suffix == "GiB") {
    shift = 30;
  } else if (!suffix.empty()) {
    return std::nullopt;
  }
  constexpr std::int64_t kMost = std::int64_t{1} << 40;
  if (number > (kMost >> shift)) return std::nullopt;
  return number << shift;
}

std::optional<std::chrono::duration<double>> parse_seconds(std::string_view text) {
  double seconds = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), seconds);
  const bool whole = end == text.data() + text.size();
  if (error != std::errc{} || !whole || !(seconds >= 0 && seconds <= 1e6)) return std::nullopt;
  return std::chrono::duration<double>(seconds);
}

Status apply(Config& config, std::string_view name, std::string_view value) {
  if (name == kFusionThreshold) {
    const auto bytes = parse_bytes(value);
    if (!bytes) return bad_value(name, value, "bytes, such as 67108864 or 64MiB (0: no fusion)");
    config.fusion_threshold = *bytes;
  } else if (name == kTimeline) {
    config.timeline = value;
  } else if (name == kLogLevel) {
    if (std::ranges::find(kLogLevels, value) == kLogLevels.end()) {
      return bad_value(name, value, "trace, debug, info, warning, error or off");
    }
    config.log_level = value;
  } else if (name == kSharedMemory) {
    if (value != "auto" && value != "off") return bad_value(name, value, "auto or off");
    config.shared_memory = value == "auto";
  } else if (name == kSharedGpu) {
    if (value != "on" && value != "off") return bad_value(name, value, "on or off");
    config.shared_gpu = value == "on";
  } else if (name == kGpuBetweenHosts) {
    if (value != "nccl" && value != "mpi") return bad_value(name, value, "nccl or mpi");
    config.gpu_over_mpi = value == "mpi";
  } else if (name == kAlone) {
    if (value != "1" && value != "0") return bad_value(name, value, "1 or 0");
    config.alone = value == "1";
  } else if (name == kCheckEqual) {
    const auto check = std::ranges::find(kChecks, value, [](CheckEqual of) { return to_string(of); });
    if (check == kChecks.end()) return bad_value(name, value, "off, warn or error");
    config.check_equal = *check;
  } else {
    const auto seconds = parse_seconds(value);
    if (!seconds) return bad_value(name, value, "seconds, such as 60 or 0.5 (0: never)");
    (name == kStallWarning ? config.stall_warning : config.stall_abort) = *seconds;
  }
  return {};
}

std::optional<std::string> get(std::string_view name) {
  const char* const value = std::getenv(std::string(name).c_str());
  return value == nullptr ? std::nullopt : std::optional<std::string>(value);
}

/// What need not be alike on all ranks.
bool is_of_one_rank(std::string_view nccl_name) {
  return nccl_name.starts_with("NCCL_DEBUG") || nccl_name.ends_with("_FILE") ||
         nccl_name.ends_with("_IFNAME") || nccl_name == "NCCL_IB_HCA" || nccl_name == "NCCL_HOSTID";
}

/// Whether the text is that port of a service: 80_TCP, 80_TCP_ADDR, 80_TCP_PORT or 80_TCP_PROTO.
bool is_service_port(std::string_view text) {
  const std::size_t digits = text.find_first_not_of("0123456789");
  if (digits == 0 || digits == text.npos || text[digits] != '_') return false;
  text.remove_prefix(digits + 1);
  const std::string_view protocol = text.substr(0, text.find('_'));
  const std::string_view detail = text.substr(protocol.size());
  return (protocol == "TCP" || protocol == "UDP" || protocol == "SCTP") &&
         (detail.empty() || detail == "_ADDR" || detail == "_PORT" || detail == "_PROTO");
}

/// Whether Kubernetes puts such a variable into all containers for a service that is called kolo, or
/// kolo-something.
bool is_of_service(std::string_view name, std::string_view value) {
  if (name.ends_with("_SERVICE_HOST") || name.find("_SERVICE_PORT") != name.npos) return true;
  if (name.ends_with("_PORT") && value.find("://") != value.npos) return true;
  const std::size_t port = name.find("_PORT_");
  return port != name.npos && is_service_port(name.substr(port + std::string_view("_PORT_").size()));
}

}  // namespace

Result<Config> Config::from_environment() {
  Config config;
  std::set<std::string_view> nccl;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string_view variable(*entry);
    const std::string_view name = variable.substr(0, variable.find('='));
    if (name.starts_with("NCCL_") && !is_of_one_rank(name)) nccl.insert(variable);
    // KOLO_TEST_* and KOLO_MPIRUN belong to the tests and the launcher.
    if (!name.starts_with("KOLO_") || name.starts_with("KOLO_TEST_") || name == "KOLO_MPIRUN" ||
        name == kRankMark) {
      continue;
    }
    const std::string_view value = variable.substr(std::min(name.size() + 1, variable.size()));
    if (std::ranges::find(kKnown, name) == kKnown.end()) {
      if (is_of_service(name, value)) continue;
      return Status::error(
          fmt::format("{} is not a setting of Kolo. There are: {}", name, fmt::join(kKnown, ", ")));
    }
    if (Status status = apply(config, name, value); !status.ok()) return status;
  }
  for (const std::string_view variable : nccl) config.nccl += fmt::format("{}\n", variable);
  return config;
}

std::string_view to_string(CheckEqual check) {
  switch (check) {
    case CheckEqual::Off:
      return "off";
    case CheckEqual::Warn:
      return "warn";
    case CheckEqual::Error:
      return "error";
  }
  return "error";
}

std::optional<Launcher> launcher_of_this_process() { return find_launcher(get); }

void mark_as_rank() {
  const std::string mark = fmt::format("{}{}", getpid(), place_in_job(get));
  setenv(kRankMark, mark.c_str(), /*overwrite=*/1);
}

bool has_place_of_its_parent() {
  const std::string place = place_in_job(get);
  const auto mark = get(kRankMark);
  if (place.empty() || !mark) return false;
  const std::size_t comma = mark->find(',');
  return comma != mark->npos && mark->substr(comma) == place &&
         mark->substr(0, comma) != std::to_string(getpid());
}

}  // namespace kolo::core
