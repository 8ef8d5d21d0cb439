#include "launch/children.h"

#include <fmt/format.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <optional>
#include <set>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

namespace kolo::launch {
namespace {

namespace fs = std::filesystem;
using std::chrono::milliseconds;

struct Status {
  char state = 'X';
  pid_t parent = 0;
};

std::optional<Status> status_of(const fs::path& process) {
  std::ifstream file(process / "stat");
  std::string line;
  if (!std::getline(file, line)) return std::nullopt;
  const auto name_end =
      line.rfind(')');  // "pid (name) state parent ...", the name may hold anything
  if (name_end == std::string::npos) return std::nullopt;
  Status status;
  if (std::sscanf(line.c_str() + name_end, ") %c %d", &status.state, &status.parent) != 2) {
    return std::nullopt;
  }
  return status;
}

/// Direct children, adopted ones included.
std::vector<pid_t> children() {
  std::vector<pid_t> found;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator("/proc", error)) {
    const auto status = status_of(entry.path());
    if (status && status->parent == getpid()) {
      found.push_back(std::atoi(entry.path().filename().c_str()));
    }
  }
  return found;
}

bool runs(pid_t process) {
  const auto status = status_of(fmt::format("/proc/{}", process));
  return status && status->state != 'Z' && status->state != 'X';
}

}  // namespace

bool has_children(pid_t parent) {
  std::error_code error;
  for (const auto& thread : fs::directory_iterator(fmt::format("/proc/{}/task", parent), error)) {
    std::ifstream list(thread.path() / "children");
    if (!list) return true;
    for (pid_t child = 0; list >> child;) {
      if (runs(child)) return true;
    }
  }
  return static_cast<bool>(error);
}

void end_leftovers(bool at_once) {
  const auto begin = std::chrono::steady_clock::now();
  const auto ask_after = milliseconds(1000);
  const auto kill_after = milliseconds(at_once ? 0 : 3000);
  std::set<pid_t> asked;
  while (true) {
    while (waitpid(-1, nullptr, WNOHANG) > 0) {
    }
    if (waitpid(-1, nullptr, WNOHANG) < 0) return;  // none is left
    const auto waited = std::chrono::steady_clock::now() - begin;
    for (const pid_t child : children()) {
      if (waited >= kill_after) {
        kill(child, SIGKILL);
      } else if (waited >= ask_after && asked.insert(child).second) {
        kill(child, SIGTERM);
      }
    }
    std::this_thread::sleep_for(milliseconds(10));
  }
}

}  // namespace kolo::launch
