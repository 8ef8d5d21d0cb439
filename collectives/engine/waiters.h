#pragma once

/// The threads of this rank that use Kolo, and what they wait for. When all of them wait, the rank
/// goes on only once one of these operations is done (circle.h).
///
///   a thread   meaning                            leaves it
///   ---------  ---------------------------------  ----------------------------------------------
///   unknown    it has not called Kolo; or it is   it waits for an operation, or submits one of no
///              LibTorch's, which submits          plan -> elsewhere
///              gradients when it is called
///   elsewhere  it computes, or waits for          it waits for an operation -> waits; it is in
///              something else, however long       pthread_join() of one that waits, or one of
///                                                 LibTorch's waits for it -> waits, too; it ends
///                                                 -> unknown
///   waits      for an operation that is not done  that is done, or the other thread ends
///                                                 -> elsewhere

#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace kolo::core {

class Work;
struct KnownThread;
struct KnownThreads;

/// Thread-safe.
class Waiters {
 public:
  Waiters();
  ~Waiters();
  Waiters(const Waiters&) = delete;
  Waiters& operator=(const Waiters&) = delete;

  /// From now on the calling thread is known, until it ends.
  void count_caller() {
    if (latest_id != id_) (void)caller();
  }

  /// While it lives, the calling thread waits for this operation.
  class Waiting {
   public:
    Waiting(Waiters& waiters, const Work& work);
    ~Waiting();
    Waiting(const Waiting&) = delete;
    Waiting& operator=(const Waiting&) = delete;

   private:
    /// Null: it has ended but for what runs at exit.
    KnownThread* const thread_;
  };

  /// While it lives: what the calling thread does in which it waits, for people: "in backward of
  /// step 3".
  class Activity {
   public:
    /// `caller`: the calling thread is one of LibTorch's, which does it for that thread, and is
    /// nobody itself when it does not wait. 0: for one that is not known.
    Activity(Waiters& waiters, std::string words, std::optional<pid_t> caller = std::nullopt);
    ~Activity();
    Activity(const Activity&) = delete;
    Activity& operator=(const Activity&) = delete;

   private:
    Waiters& waiters_;
    KnownThread* const thread_;
    std::string before_;
  };

  struct Wait {
    /// To be compared only: it may be done meanwhile, and gone.
    const Work* work = nullptr;
    /// Empty: there is no more to say than the operation's name.
    std::string activity;
  };

  /// One for each thread that waits for an operation; nothing when any thread is elsewhere, or none
  /// is known.
  std::optional<std::vector<Wait>> all_wait() const;

  /// The step of a training that this rank has made last, for people; less than 0: none.
  void note_step(std::int64_t step) { latest_step_.store(step, std::memory_order_relaxed); }
  std::int64_t latest_step() const { return latest_step_.load(std::memory_order_relaxed); }

  /// Grows whenever a thread begins or ends to wait, becomes known or ends.
  std::uint64_t changes() const;

 private:
  KnownThread* caller() const;

  /// Of the object that has counted the calling thread last: mostly this one.
  static inline constinit thread_local std::uint64_t latest_id = 0;

  /// Not an address, which another object could have later.
  const std::uint64_t id_;  // from 1
  const std::shared_ptr<KnownThreads> threads_;
  std::atomic<std::int64_t> latest_step_ = -1;
};

}  // namespace kolo::core
