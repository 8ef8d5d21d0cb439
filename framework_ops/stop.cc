#include <kolo/init.h>
#include <kolo/stop.h>
#include <torch/torch.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <ctime>

#include "scalars.h"

namespace kolo {
namespace {

constexpr std::array kStopSignals = {SIGTERM, SIGINT};

/// Launchers may send one signal twice.
constexpr std::int64_t kSameSignalMilliseconds = 1000;

/// What the handler reads; the rest is written before it is installed.
struct StopSignals {
  std::atomic<std::int64_t> first_at{0};  // 0: no signal yet
  ::pid_t process = 0;
  std::array<struct sigaction, kStopSignals.size()> previous = {};
};
static_assert(std::atomic<std::int64_t>::is_always_lock_free);

StopSignals stop_signals;

std::int64_t milliseconds_now() {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return std::int64_t{now.tv_sec} * 1000 + now.tv_nsec / 1'000'000 + 1;  // never 0
}

bool is_default(const struct sigaction& action) {
  return (action.sa_flags & SA_SIGINFO) == 0 && action.sa_handler == SIG_DFL;
}

bool is_ignored(const struct sigaction& action) {
  return (action.sa_flags & SA_SIGINFO) == 0 && action.sa_handler == SIG_IGN;
}

void on_stop_signal(int signal, ::siginfo_t* info, void* context) {
  const int error = errno;
  std::int64_t first_at = 0;
  const std::int64_t now = milliseconds_now();
  const bool is_first = stop_signals.first_at.compare_exchange_strong(first_at, now);
  const bool is_same = is_first || now - first_at < kSameSignalMilliseconds;
  const bool is_of_child = ::getpid() != stop_signals.process;
  const struct sigaction& previous = stop_signals.previous[signal == kStopSignals[0] ? 0 : 1];
  if (!is_default(previous)) {
    if ((previous.sa_flags & SA_SIGINFO) != 0) {
      previous.sa_sigaction(signal, info, context);
    } else {
      previous.sa_handler(signal);
    }
  } else if (is_of_child || !is_same) {
    ::signal(signal, SIG_DFL);
    ::raise(signal);  // takes effect when this handler returns
  }
  errno = error;
}

bool install_handlers() {
  stop_signals.process = ::getpid();
  for (std::size_t i = 0; i < kStopSignals.size(); ++i) {
    struct sigaction& previous = stop_signals.previous[i];
    ::sigaction(kStopSignals[i], nullptr, &previous);
    if (is_ignored(previous)) continue;
    struct sigaction action = previous;  // also what is blocked meanwhile
    if (is_default(previous)) action.sa_flags = SA_RESTART;
    action.sa_flags |= SA_SIGINFO;
    action.sa_sigaction = &on_stop_signal;
    ::sigaction(kStopSignals[i], &action, nullptr);
  }
  return true;
}

}  // namespace

bool stop_requested(const ProcessSet& process_set) {
  const int ranks = size();
  [[maybe_unused]] static const bool installed = install_handlers();
  const bool here = stop_signals.first_at != 0;
  if (ranks == 1) return here;
  return detail::reduce_number(here, "kolo::stop_requested", ReduceOp::Max, process_set);
}

}  // namespace kolo
