#include "context/introduction.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "base/build_id.h"
#include "base/log.h"
#include "mpi/meeting.h"

namespace kolo::core {
namespace {

/// Texts end with a zero, and are cut where they are too long.
struct Introduction {
  std::array<char, 16> magic{};
  std::array<char, 32> version{};
  std::array<char, 80> build{};
  std::array<char, 64> host{};
  std::array<char, 832> refusal{};
};
static_assert(sizeof(Introduction) == 1024 && std::is_trivially_copyable_v<Introduction>);

constexpr std::string_view kMagic = "kolo";

template <std::size_t N>
void put(std::array<char, N>& field, std::string_view text) {
  text = text.substr(0, N - 1);
  std::ranges::copy(text, field.begin());
}

template <std::size_t N>
std::string_view text_of(const std::array<char, N>& field) {
  return {field.data(), strnlen(field.data(), N)};
}

Introduction introduction_of(const Status& ready) {
  Introduction own;
  put(own.magic, kMagic);
  put(own.version, KOLO_VERSION);
  put(own.build, build_id());
  std::array<char, 64> host{};
  if (gethostname(host.data(), host.size() - 1) == 0) put(own.host, host.data());
  if (!ready.ok()) put(own.refusal, ready.message());
  return own;
}

/// Empty when all run the same.
std::string different_builds(const std::vector<Introduction>& all) {
  std::map<std::string, std::vector<std::size_t>> ranks_by_build;
  std::map<std::string, std::string> hosts;
  std::vector<std::string> builds;
  for (std::size_t rank = 0; rank < all.size(); ++rank) {
    const Introduction& word = all[rank];
    const std::string build =
        text_of(word.magic) != kMagic
            ? "another version"
            : fmt::format("{} with build ID {}", text_of(word.version), text_of(word.build));
    if (ranks_by_build[build].empty()) builds.push_back(build);
    ranks_by_build[build].push_back(rank);
    hosts.emplace(build, text_of(word.host));
  }
  if (builds.size() == 1) return {};
  std::vector<std::string> parts;
  for (const std::string& build : builds) {
    parts.push_back(fmt::format("rank(s) {} (host {}) run {}",
                                fmt::join(ranks_by_build[build], ", "), hosts[build], build));
  }
  return fmt::format(
      "the ranks do not run the same build of Kolo, and might understand each other wrongly: {}. "
      "Install the "
      "same libkolo on all hosts, and have all ranks load it (LD_LIBRARY_PATH, LD_PRELOAD).",
      fmt::join(parts, "; "));
}

}  // namespace

mpi::Patience patience_of(const Config& config, int rank) {
  return {.warn_after = config.stall_warning,
          .give_up_after = config.stall_abort,
          .warn = [logger = make_logger(rank, config.log_level)](const std::string& text) {
            logger->warn("{}", text);
          }};
}

Status introduce(const mpi::Session& session, const Status& ready, const mpi::Patience& patience) {
  const Introduction own = introduction_of(ready);
  const auto words = mpi::meet(session.ranks(), std::as_bytes(std::span(&own, 1)), patience);
  if (!words.ok()) return words.status();
  std::vector<Introduction> all;
  for (const std::vector<std::byte>& word : words.value()) {
    std::memcpy(&all.emplace_back(), word.data(), sizeof(Introduction));
  }
  if (const std::string error = different_builds(all); !error.empty()) return Status::error(error);
  for (std::size_t rank = 0; rank < all.size(); ++rank) {
    const std::string_view refusal = text_of(all[rank].refusal);
    if (!refusal.empty()) return Status::error(fmt::format("rank {}: {}", rank, refusal));
  }
  return {};
}

}  // namespace kolo::core
