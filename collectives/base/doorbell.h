#pragma once

/// Where who does a coordinator's work sleeps: one for everything that can give it something to do.

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <utility>

namespace kolo::core {

/// A futex on a word of this process, or of a segment whose other users ring it themselves. Any
/// thread rings, one at a time waits. A ring is remembered until the next wait, so none is lost between
/// looking for work and going to sleep. It costs no system call unless the other sleeps.
///
/// What was written before ring() is seen after the wait that it ends: a ring is a
/// read-modify-write with release order, and the wait's exchange with acquire order reads it or a
/// later one.
class Doorbell {
 public:
  using Word = std::atomic<std::uint32_t>;
  static_assert(Word::is_always_lock_free);

  Doorbell() = default;
  Doorbell(const Doorbell&) = delete;
  Doorbell& operator=(const Doorbell&) = delete;

  /// From now on this word, which is 0 or has been rung, is the bell. To be called before there is
  /// anybody else who rings or waits.
  void move_to(std::shared_ptr<Word> word) { word_ = std::move(word); }

  void ring() { ring(*word_); }
  static void ring(Word& word);

  void wait();

  /// Returns after a ring or the timeout, whichever comes first.
  void wait_for(std::chrono::nanoseconds timeout);

 private:
  std::shared_ptr<Word> word_ = std::make_shared<Word>(0);
};

}  // namespace kolo::core
