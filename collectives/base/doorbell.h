#pragma once

/// Where a coordinator sleeps: one for everything that can give it something to do.

#include <chrono>
#include <condition_variable>
#include <mutex>

namespace kolo::core {

/// Thread-safe. A ring is remembered until the next wait, so none is lost between looking for work
/// and going to sleep. What was written before ring() is seen after the wait that it ends.
class Doorbell {
 public:
  void ring() {
    {
      const std::lock_guard lock(mutex_);
      rung_ = true;
    }
    condition_.notify_one();
  }

  void wait() {
    std::unique_lock lock(mutex_);
    condition_.wait(lock, [this] { return rung_; });
    rung_ = false;
  }

  /// Returns after a ring or the timeout, whichever comes first.
  void wait_for(std::chrono::nanoseconds timeout) {
    std::unique_lock lock(mutex_);
    condition_.wait_for(lock, timeout, [this] { return rung_; });
    rung_ = false;
  }

 private:
  std::mutex mutex_;
  std::condition_variable condition_;
  bool rung_ = false;
};

}  // namespace kolo::core
