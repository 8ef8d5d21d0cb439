#include "launch/process.h"

#include <fmt/format.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
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

using std::chrono::milliseconds;

constexpr int kSignalExit = 128;

/// The signals to pass on, and SIGCHLD. A SIGHUP that nohup has set to be ignored stays so.
sigset_t handled_signals() {
  sigset_t signals;
  sigemptyset(&signals);
  for (const int number : {SIGCHLD, SIGINT, SIGTERM, SIGUSR1, SIGUSR2}) {
    sigaddset(&signals, number);
  }
  struct sigaction action {};
  sigaction(SIGHUP, nullptr, &action);
  if (action.sa_handler != SIG_IGN) sigaddset(&signals, SIGHUP);
  return signals;
}

[[noreturn]] void become(const MpirunCommand& command, pid_t parent, const sigset_t& old_mask) {
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  if (getppid() != parent) _exit(kSignalExit + SIGTERM);  // it died before the line above
  sigprocmask(SIG_SETMASK, &old_mask, nullptr);
  for (const auto& [name, value] : command.environment) setenv(name.c_str(), value.c_str(), 1);
  auto words = command.arguments;
  std::vector<char*> argv;
  for (auto& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  execvp(argv[0], argv.data());
  fmt::print(stderr, "kolorun: '{}' cannot be started: {}\n", words[0],
             std::generic_category().message(errno));
  _exit(2);
}

int exit_code_of(int wait_status) {
  return WIFSIGNALED(wait_status) ? kSignalExit + WTERMSIG(wait_status) : WEXITSTATUS(wait_status);
}

/// Direct children, adopted ones included.
std::vector<pid_t> children() {
  std::vector<pid_t> found;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator("/proc", error)) {
    std::ifstream file(entry.path() / "stat");
    std::string line;
    if (!std::getline(file, line)) continue;
    int parent = 0;  // "pid (name) state parent ...", and the name may hold anything
    const auto name_end = line.rfind(')');
    if (name_end == std::string::npos) continue;
    if (std::sscanf(line.c_str() + name_end, ") %*c %d", &parent) == 1 && parent == getpid()) {
      found.push_back(static_cast<pid_t>(std::strtol(line.c_str(), nullptr, 10)));
    }
  }
  return found;
}

/// Ends what mpirun has left: waits for it, asks, kills; or kills at once.
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

/// Waits for mpirun while it passes signals on.
class Supervisor {
 public:
  Supervisor(pid_t mpirun, const sigset_t& signals) : mpirun_(mpirun), signals_(signals) {}

  int wait() {
    while (!exit_code_) {
      siginfo_t info{};
      if (sigwaitinfo(&signals_, &info) < 0) continue;
      if (info.si_signo == SIGCHLD) {
        reap();
      } else {
        pass_on(info);
      }
    }
    end_leftovers(interrupts_ > 1);
    return stop_signal_ != 0 ? kSignalExit + stop_signal_ : *exit_code_;
  }

 private:
  void reap() {
    int status = 0;
    for (pid_t child = 0; (child = waitpid(-1, &status, WNOHANG)) > 0;) {
      if (child == mpirun_) exit_code_ = exit_code_of(status);
    }
  }

  void pass_on(const siginfo_t& info) {
    const int number = info.si_signo;
    const bool stops = number == SIGINT || number == SIGTERM || number == SIGHUP;
    if (stops && stop_signal_ == 0) stop_signal_ = number;
    if (number == SIGINT && ++interrupts_ > 1) {
      kill(mpirun_, SIGKILL);
    } else if (info.si_code != SI_KERNEL) {  // the terminal has sent its signals to mpirun, too
      kill(mpirun_, number);
    }
  }

  pid_t mpirun_;
  sigset_t signals_;
  std::optional<int> exit_code_;
  int stop_signal_ = 0;
  int interrupts_ = 0;
};

}  // namespace

int run_to_end(const MpirunCommand& command) {
  prctl(PR_SET_CHILD_SUBREAPER, 1);
  signal(SIGCHLD, SIG_DFL);  // whoever started this may have ignored it, and waitpid would fail
  const auto signals = handled_signals();
  sigset_t old_mask;
  sigprocmask(SIG_BLOCK, &signals, &old_mask);
  const pid_t parent = getpid();
  const pid_t child = fork();
  if (child < 0) {
    fmt::print(stderr, "kolorun: cannot start a process: {}\n",
               std::generic_category().message(errno));
    return 2;
  }
  if (child == 0) become(command, parent, old_mask);
  return Supervisor(child, signals).wait();
}

}  // namespace kolo::launch
