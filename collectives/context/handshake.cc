#include "context/handshake.h"

#include <fmt/format.h>

#include <filesystem>
#include <map>
#include <optional>
#include <sstream>
#include <string>
#include <variant>

#include "wire/codec.h"
#include "wire/messages.h"

namespace kolo::core {
namespace {

using Clock = std::chrono::steady_clock;

std::int64_t now_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now().time_since_epoch())
      .count();
}

/// `early`: for what ranks say that wait for this one already.
template <typename Expected>
Result<std::pair<int, Expected>> wait_for(ControlPlane& control, Doorbell& doorbell,
                                          std::vector<Envelope>& early) {
  while (true) {
    Result<std::optional<Envelope>> envelope = control.receive();
    if (!envelope.ok()) return envelope.status();
    if (!envelope.value().has_value()) {
      doorbell.wait_for(std::chrono::milliseconds(1));
      continue;
    }
    Result<Message> message = decode(envelope.value()->bytes);
    if (!message.ok()) {
      return Status::error(fmt::format("from rank {}: {}", envelope.value()->source,
                                       message.status().message()));
    }
    if (std::holds_alternative<Blocked>(message.value())) {
      early.push_back(std::move(*envelope.value()));
      continue;
    }
    const auto* expected = std::get_if<Expected>(&message.value());
    if (expected == nullptr) return Status::error("unexpected message while ranks were starting");
    return std::pair(envelope.value()->source, *expected);
  }
}

std::string find_difference(const std::map<int, Hello>& hellos) {
  const Hello& first = hellos.at(0);
  for (const auto& [rank, hello] : hellos) {
    if (!hello.refusal.empty()) return fmt::format("rank {}: {}", rank, hello.refusal);
    if (hello.fusion_threshold != first.fusion_threshold) {
      return fmt::format(
          "KOLO_FUSION_THRESHOLD differs: rank 0 has {} bytes, rank {} has {} bytes. It must be the "
          "same on all ranks.",
          first.fusion_threshold, rank, hello.fusion_threshold);
    }
    if (hello.gpu_over_mpi != first.gpu_over_mpi) {
      const auto name = [](bool over_mpi) { return over_mpi ? "mpi" : "nccl"; };
      return fmt::format(
          "KOLO_GPU_BETWEEN_HOSTS differs: rank 0 has {}, rank {} has {}. It must be the same on all "
          "ranks.",
          name(first.gpu_over_mpi), rank, name(hello.gpu_over_mpi));
    }
    if (hello.timeline != first.timeline) {
      return fmt::format(
          "KOLO_TIMELINE is set on rank {}, but not on rank {}. Set it on all ranks or on none.",
          first.timeline ? 0 : rank, first.timeline ? rank : 0);
    }
    if (!hello.timeline_file.empty() && hello.timeline_file != first.timeline_file) {
      return fmt::format(
          "KOLO_TIMELINE differs: rank 0 has '{}', rank {} of the same host has '{}'. All ranks write one "
          "file: set the same on all of them.",
          first.timeline_file, rank, hello.timeline_file);
    }
  }
  return {};
}

/// The file, whatever folder each rank works in.
std::string file_of(const Config& config, const Topology& topology) {
  if (config.timeline.empty() || !topology.with_rank_0) return {};
  std::error_code error;
  const auto absolute = std::filesystem::absolute(config.timeline, error);
  const auto file = error ? absolute : std::filesystem::weakly_canonical(absolute, error);
  return error ? config.timeline : file.string();
}

/// By name, of lines NAME=value.
std::map<std::string, std::string> variables_in(const std::string& lines) {
  std::map<std::string, std::string> variables;
  std::istringstream text(lines);
  for (std::string line; std::getline(text, line);) {
    const std::size_t end = line.find('=');
    if (end != line.npos) variables[line.substr(0, end)] = line.substr(end + 1);
  }
  return variables;
}

/// Of NCCL's settings, the first that is not alike. Empty: all are.
std::string nccl_difference(const std::map<int, Hello>& hellos) {
  const auto quoted = [](const auto& variables, const std::string& name) {
    const auto found = variables.find(name);
    return found == variables.end() ? "none" : fmt::format("'{}'", found->second);
  };
  const auto first = variables_in(hellos.at(0).nccl);
  for (const auto& [rank, hello] : hellos) {
    const auto others = variables_in(hello.nccl);
    auto names = first;
    names.insert(others.begin(), others.end());
    for (const auto& [name, value] : names) {
      const std::string here = quoted(first, name);
      const std::string there = quoted(others, name);
      if (here == there) continue;
      return fmt::format(
          "{} differs: rank 0 has {}, rank {} has {}. NCCL may hang, or fail, where ranks do not have the "
          "same settings: give them to all ranks (mpirun -x).",
          name, here, rank, there);
    }
  }
  return {};
}

Result<Agreement> gather_hellos(const Hello& own, ControlPlane& control, Doorbell& doorbell) {
  const int size = control.topology().size;
  std::map<int, Hello> hellos = {{0, own}};
  Welcome welcome;
  std::vector<Envelope> none;
  while (static_cast<int>(hellos.size()) < size && welcome.error.empty()) {
    const auto hello = wait_for<Hello>(control, doorbell, none);
    if (hello.ok()) {
      hellos.insert(hello.value());
    } else {
      welcome.error = hello.status().message();
    }
  }
  if (welcome.error.empty()) welcome.error = find_difference(hellos);
  welcome.timeline_origin_ns = now_ns();
  Status told;
  for (int rank = 1; rank < size; ++rank) {
    welcome.clock_ns = now_ns();
    // Also the others when one cannot be told.
    if (Status status = control.send(rank, encode(welcome)); !status.ok()) told = status;
  }
  if (!told.ok()) return told;
  if (!welcome.error.empty()) return Status::error(welcome.error);
  Agreement agreement;
  agreement.timeline_origin =
      Clock::time_point(std::chrono::nanoseconds(welcome.timeline_origin_ns));
  agreement.warning = nccl_difference(hellos);
  return agreement;
}

}  // namespace

Result<Agreement> shake_hands(const Config& config, const Status& ready, ControlPlane& control,
                              Doorbell& doorbell) {
  const Topology& topology = control.topology();
  const Hello own{.refusal = ready.ok() ? "" : ready.message(),
                  .fusion_threshold = config.fusion_threshold.value_or(kDefaultFusionThreshold),
                  .timeline = !config.timeline.empty(),
                  .gpu_over_mpi = config.gpu_over_mpi,
                  .timeline_file = file_of(config, topology),
                  .nccl = config.nccl};
  if (topology.rank == 0) return gather_hellos(own, control, doorbell);
  if (Status status = control.send(0, encode(own)); !status.ok()) return status;
  Agreement agreement;
  const auto welcome = wait_for<Welcome>(control, doorbell, agreement.early);
  if (!welcome.ok()) return welcome.status();
  const Welcome& word = welcome.value().second;
  if (!word.error.empty()) return Status::error(word.error);
  agreement.timeline_origin = Clock::time_point(std::chrono::nanoseconds(word.timeline_origin_ns));
  if (!topology.with_rank_0) {
    agreement.clock_offset = std::chrono::nanoseconds(word.clock_ns - now_ns());
  }
  return agreement;
}

}  // namespace kolo::core
