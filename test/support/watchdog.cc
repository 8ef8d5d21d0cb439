#include "support/watchdog.h"

#include <dirent.h>
#include <execinfo.h>
#include <gtest/gtest.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <condition_variable>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <string>
#include <thread>
#include <utility>

namespace kolo::testing {
namespace {

constexpr int kExitStatus = 124;
constexpr double kDefaultSeconds = 60;

// How long a rank waits for the others to show their stacks, too, before the launcher kills all.
constexpr std::chrono::seconds kGrace{5};

double limit_seconds() {
  const char* const text = std::getenv("KOLO_TEST_TIMEOUT");
  return text != nullptr ? std::atof(text) : kDefaultSeconds;
}

/// Whether gdb is there and may look into this process.
bool print_stacks_with_gdb() {
  prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY, 0, 0, 0);
  const std::string command =
      "exec timeout -s KILL 40 gdb -p " + std::to_string(getpid()) +
      " -batch -nx -ex 'set pagination off' -ex 'thread apply all backtrace 40' 2>/dev/null";
  FILE* const output = popen(command.c_str(), "r");
  if (output == nullptr) return false;
  bool found = false;
  std::array<char, 4096> line{};
  while (std::fgets(line.data(), static_cast<int>(line.size()), output) != nullptr) {
    const bool frame = line[0] == '#';
    found = found || frame;
    if (frame || std::strncmp(line.data(), "Thread ", 7) == 0) std::fputs(line.data(), stderr);
  }
  pclose(output);
  return found;
}

void print_own_stack(int /*signal*/) {
  std::array<void*, 64> frames{};
  const int depth = backtrace(frames.data(), static_cast<int>(frames.size()));
  backtrace_symbols_fd(frames.data(), depth, STDERR_FILENO);
}

/// Each thread in turn prints its own, names only where the symbol is exported.
void print_stacks_by_signal() {
  const int number = SIGRTMIN + 7;
  struct sigaction action {};
  action.sa_handler = print_own_stack;
  sigaction(number, &action, nullptr);
  DIR* const tasks = opendir("/proc/self/task");
  if (tasks == nullptr) return;
  while (const dirent* const entry = readdir(tasks)) {
    const int thread = std::atoi(entry->d_name);
    if (thread == 0) continue;
    std::fprintf(stderr, "Thread %d:\n", thread);
    syscall(SYS_tgkill, getpid(), thread, number);
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
  }
  closedir(tasks);
}

class Watchdog final : public ::testing::EmptyTestEventListener {
 public:
  Watchdog(int rank, double seconds) : rank_(rank), limit_(seconds), thread_([this] { watch(); }) {}

  ~Watchdog() override {
    set_test("", true);
    thread_.join();
  }

  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

  void OnTestStart(const ::testing::TestInfo& test) override {
    set_test(std::string(test.test_suite_name()) + "." + test.name(), false);
  }
  void OnTestEnd(const ::testing::TestInfo& /*test*/) override { set_test("", false); }

 private:
  void set_test(std::string test, bool quit) {
    const std::lock_guard lock(mutex_);
    test_ = std::move(test);
    quit_ = quit;
    ++changes_;
    changed_.notify_one();
  }

  void watch() {
    std::unique_lock lock(mutex_);
    while (!quit_) {
      const int seen = changes_;
      const auto has_changed = [&] { return changes_ != seen; };
      if (test_.empty()) {
        changed_.wait(lock, has_changed);
      } else if (!changed_.wait_for(lock, limit_, has_changed)) {
        expire();
      }
    }
  }

  [[noreturn]] void expire() {
    const std::string who = rank_ < 0 ? std::string() : "rank " + std::to_string(rank_) + ": ";
    std::fprintf(stderr, "\n[watchdog] %s%s hangs: not over after %g s. All threads:\n",
                 who.c_str(), test_.c_str(), limit_.count());
    if (!print_stacks_with_gdb()) print_stacks_by_signal();
    std::fflush(nullptr);
    if (rank_ >= 0) std::this_thread::sleep_for(kGrace);
    _exit(kExitStatus);
  }

  const int rank_;
  const std::chrono::duration<double> limit_;
  std::mutex mutex_;
  std::condition_variable changed_;
  int changes_ = 0;
  bool quit_ = false;
  /// Empty between tests.
  std::string test_;
  std::thread thread_;
};

}  // namespace

void install_watchdog(int rank) {
  const double seconds = limit_seconds();
  if (seconds <= 0) return;
  ::testing::UnitTest::GetInstance()->listeners().Append(new Watchdog(rank, seconds));
}

}  // namespace kolo::testing
