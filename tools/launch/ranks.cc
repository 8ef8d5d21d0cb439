#include "launch/ranks.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>

#include <algorithm>

namespace kolo::launch {
namespace {

constexpr int kSignalExit = 128;

/// "0, 2-5".
std::string to_ranges(std::vector<int> numbers) {
  std::sort(numbers.begin(), numbers.end());
  std::vector<std::string> ranges;
  for (std::size_t begin = 0, end = 0; begin < numbers.size(); begin = end) {
    for (end = begin + 1; end < numbers.size() && numbers[end] == numbers[end - 1] + 1;) ++end;
    ranges.push_back(end == begin + 1 ? std::to_string(numbers[begin])
                                      : fmt::format("{}-{}", numbers[begin], numbers[end - 1]));
  }
  return fmt::format("{}", fmt::join(ranges, ", "));
}

std::string to_text(int wait_status, bool plural) {
  if (!WIFSIGNALED(wait_status)) {
    return fmt::format("ended with exit code {}", WEXITSTATUS(wait_status));
  }
  const int number = WTERMSIG(wait_status);
  const char* const name = sigabbrev_np(number);
  return fmt::format(
      "{} ended by {} ({}){}", plural ? "were" : "was",
      name != nullptr ? fmt::format("SIG{}", name) : fmt::format("signal {}", number),
      strsignal(number), WCOREDUMP(wait_status) ? ", with a core dump" : "");
}

/// After the first failure mpirun ends the others with this signal.
bool by_mpirun(int wait_status) {
  return WIFSIGNALED(wait_status) && WTERMSIG(wait_status) == SIGTERM;
}

}  // namespace

int exit_code_of(int wait_status) {
  return WIFSIGNALED(wait_status) ? kSignalExit + WTERMSIG(wait_status) : WEXITSTATUS(wait_status);
}

void Ranks::started(int rank, const std::string& host) {
  auto& one = ranks_.at(static_cast<std::size_t>(rank));
  if (!one.has_started) ++started_;
  one.has_started = true;
  one.host = host;
}

void Ranks::ended(int rank, int wait_status) {
  auto& one = ranks_.at(static_cast<std::size_t>(rank));
  if (!one.wait_status) order_.push_back(rank);
  one.wait_status = wait_status;
}

std::string Ranks::missing() const {
  std::vector<int> numbers;
  for (std::size_t rank = 0; rank < ranks_.size(); ++rank) {
    if (!ranks_[rank].has_started) numbers.push_back(static_cast<int>(rank));
  }
  return to_ranges(std::move(numbers));
}

std::optional<int> Ranks::failure() const {
  for (const int rank : order_) {
    const int status = *ranks_[static_cast<std::size_t>(rank)].wait_status;
    if (status != 0) return exit_code_of(status);
  }
  return std::nullopt;
}

std::vector<std::string> Ranks::failures() const {
  std::vector<std::string> lines;
  std::vector<bool> told(ranks_.size());
  for (const int first : order_) {
    const auto& one = ranks_[static_cast<std::size_t>(first)];
    if (*one.wait_status == 0 || told[static_cast<std::size_t>(first)]) continue;
    if (!lines.empty() && by_mpirun(*one.wait_status)) continue;
    std::vector<int> alike;
    for (const int rank : order_) {
      const auto& other = ranks_[static_cast<std::size_t>(rank)];
      if (other.wait_status != one.wait_status || other.host != one.host) continue;
      alike.push_back(rank);
      told[static_cast<std::size_t>(rank)] = true;
    }
    lines.push_back(fmt::format("rank{} {} on {} {}", alike.size() > 1 ? "s" : "", to_ranges(alike),
                                one.host, to_text(*one.wait_status, alike.size() > 1)));
  }
  return lines;
}

}  // namespace kolo::launch
