#pragma once

/// The threads that Kolo starts.

#include <pthread.h>

#include <csignal>
#include <string>
#include <system_error>
#include <thread>
#include <utility>

#include "base/status.h"

namespace kolo::core {

/// No signal is handled on the threads that start in its lifetime, by Kolo or a library: a program's
/// signals are for its own threads, one of which may wait for them (sigwait()). A crash is left to its
/// handler.
class SignalsBlocked {
 public:
  SignalsBlocked() {
    sigset_t blocked;
    sigfillset(&blocked);
    for (const int crash : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS, SIGABRT}) {
      sigdelset(&blocked, crash);
    }
    pthread_sigmask(SIG_BLOCK, &blocked, &before_);
  }
  SignalsBlocked(const SignalsBlocked&) = delete;
  SignalsBlocked& operator=(const SignalsBlocked&) = delete;
  ~SignalsBlocked() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

 private:
  sigset_t before_{};
};

/// Runs `run` on a thread of that name (15 letters at most), without signals. Fails when there is none to
/// be had; then `run` is gone.
template <typename Run>
Result<std::thread> start_thread(const char* name, Run&& run) {
  const SignalsBlocked blocked;
  try {
    std::thread thread(std::forward<Run>(run));
    pthread_setname_np(thread.native_handle(), name);
    return Result<std::thread>(std::move(thread));
  } catch (const std::system_error& error) {
    return Status::error("cannot start the thread " + std::string(name) + ": " +
                         error.code().message() +
                         ". The limit on processes and threads is reached (see ulimit -u, and pids.max of "
                         "the cgroup, such as a container's), or there is no memory for its stack (ulimit "
                         "-v): raise it, or start fewer processes");
  }
}

}  // namespace kolo::core
