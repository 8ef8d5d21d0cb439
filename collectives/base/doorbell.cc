#include "base/doorbell.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <ctime>

namespace kolo::core {
namespace {

using Clock = std::chrono::steady_clock;

// What the word holds.
constexpr std::uint32_t kQuiet = 0;
constexpr std::uint32_t kRung = 1;
constexpr std::uint32_t kAsleep = 2;

// Not FUTEX_PRIVATE_FLAG: the word may be shared between processes.
long futex(Doorbell::Word& word, int operation, std::uint32_t value, const timespec* timeout) {
  return syscall(SYS_futex, reinterpret_cast<std::uint32_t*>(&word), operation, value, timeout,
                 nullptr, 0);
}

/// Sleeps unless the bell has been rung; may also return early for no reason.
void sleep(Doorbell::Word& word, const timespec* timeout) {
  std::uint32_t found = kQuiet;
  word.compare_exchange_strong(found, kAsleep, std::memory_order_relaxed);
  if (found != kRung) futex(word, FUTEX_WAIT, kAsleep, timeout);
}

bool take_ring(Doorbell::Word& word) {
  return word.exchange(kQuiet, std::memory_order_acquire) == kRung;
}

}  // namespace

void Doorbell::ring(Word& word) {
  if (word.exchange(kRung, std::memory_order_release) == kAsleep) {
    futex(word, FUTEX_WAKE, 1, nullptr);
  }
}

void Doorbell::wait() {
  do {
    sleep(*word_, nullptr);
  } while (!take_ring(*word_));
}

void Doorbell::wait_for(std::chrono::nanoseconds timeout) {
  const Clock::time_point deadline = Clock::now() + timeout;
  while (!take_ring(*word_)) {
    const std::chrono::nanoseconds left = deadline - Clock::now();
    if (left.count() <= 0) return;
    constexpr std::int64_t kSecond = 1'000'000'000;
    const timespec time{.tv_sec = left.count() / kSecond, .tv_nsec = left.count() % kSecond};
    sleep(*word_, &time);
  }
}

}  // namespace kolo::core
