#pragma once

#include <condition_variable>
#include <mutex>
#include <optional>
#include <set>
#include <thread>

#include "base/launcher.h"
#include "mpi/meeting.h"

namespace kolo::core::mpi {

/// Watches MPI while it starts, which waits for all processes of the launcher without a word. It
/// warns, and when the patience ends it says so and ends the process, which cannot be done from
/// within MPI. Ranks of a host know of each other by names of Unix sockets, so it knows who of them
/// has come.
class StartWatch {
 public:
  explicit StartWatch(const Patience& patience);
  StartWatch(const StartWatch&) = delete;
  StartWatch& operator=(const StartWatch&) = delete;
  /// MPI has started.
  ~StartWatch();

 private:
  void run();
  void report(std::chrono::duration<double> waited, bool is_over) const;

  const Patience patience_;
  const std::optional<Launcher> launcher_;
  int socket_ = -1;
  /// The ranks of this host that have come. The thread's.
  std::set<int> here_;
  std::mutex mutex_;
  std::condition_variable ended_;
  bool has_ended_ = false;  // guarded by mutex_
  std::thread thread_;
};

}  // namespace kolo::core::mpi
