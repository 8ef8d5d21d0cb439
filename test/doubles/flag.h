#pragma once

/// Raised once, and waited for: what came before raise() is ordered before what comes after wait(),
/// and nothing else is. A condition variable's lock, or a semaphore, would order more than CUDA
/// does.

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <climits>
#include <cstdint>

namespace kolo::doubles {

class Flag {
 public:
  /// Who waits may destroy it as soon as it is raised.
  void raise() {
    std::atomic<std::uint32_t>* const word = &word_;
    word->store(1, std::memory_order_release);
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
  }
  bool is_raised() const { return word_.load(std::memory_order_acquire) != 0; }
  void wait() {
    while (!is_raised()) syscall(SYS_futex, &word_, FUTEX_WAIT_PRIVATE, 0, nullptr, nullptr, 0);
  }

 private:
  std::atomic<std::uint32_t> word_ = 0;
};

}  // namespace kolo::doubles
