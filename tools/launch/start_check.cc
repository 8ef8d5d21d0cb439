#include "launch/start_check.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <array>
#include <cstdio>

#include "launch/values.h"

namespace kolo::launch {
namespace {

/// A shell command's output in one line, and whether it succeeded.
class Answer {
 public:
  explicit Answer(const std::string& command) : pipe_(popen(command.c_str(), "re")) {}

  std::string text() {
    std::string lines;
    std::array<char, 256> part{};
    while (pipe_ != nullptr &&
           std::fgets(part.data(), static_cast<int>(part.size()), pipe_) != nullptr) {
      lines += part.data();
    }
    while (!lines.empty() && (lines.back() == '\n' || lines.back() == '\r')) lines.pop_back();
    return lines.substr(lines.rfind('\n') + 1);
  }

  bool ended_well() { return pipe_ != nullptr && pclose(pipe_) == 0; }

 private:
  std::FILE* pipe_;
};

}  // namespace

std::string explain_missing(const std::vector<std::string>& remote_shell,
                            const std::vector<Host>& hosts) {
  std::string shell;
  for (const auto& word : remote_shell) shell += shell_quote(word) + ' ';
  std::vector<Answer> answers;
  for (const auto& host : hosts) {
    answers.emplace_back(
        fmt::format("timeout -s KILL 10 {}{} true 2>&1 </dev/null", shell, shell_quote(host.name)));
  }
  std::string silent;
  for (std::size_t i = 0; i < hosts.size(); ++i) {
    const auto text = answers[i].text();
    if (answers[i].ended_well()) continue;
    silent += fmt::format("; host '{}' did not answer {}{}{}", hosts[i].name, remote_shell.front(),
                          text.empty() ? "" : ": ", text);
  }
  if (!silent.empty()) return silent;
  if (hosts.empty()) return "";
  return fmt::format(
      "; all hosts answer {}, so look at firewalls between them (see --network-interface), and "
      "whether Open MPI is the same on all",
      remote_shell.front());
}

}  // namespace kolo::launch
