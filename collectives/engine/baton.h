#pragma once

/// Who does the coordinator's work: its thread, or a caller that waits for an operation anyway, and so
/// saves switching to that thread and back.
///
/// Whoever holds the baton, and nobody else, works on the coordinator's state and uses the planes. What
/// a holder has written is seen by the next one: both lock `mutex_` in between. What was submitted
/// before call() is seen by the holder that it rings (base/doorbell.h), or by the next one.
///
///   holder   sleeps on     leaves it
///   -------  ------------  --------------------------------------------------------------------------
///   Nobody   -             a caller waits -> Caller; one has something to do by itself, and there is no
///                          work (take_if_idle()) -> Caller; call() has woken the thread -> Thread
///   Thread   the doorbell  a caller waits, and has rung -> Caller; nothing is left -> Nobody
///   Caller   the doorbell  its operation is done: another caller waits -> Caller; work is left, or
///                          close() was called -> Thread; else -> Nobody
///
/// Without the baton, the thread sleeps on `turn_`, and a caller on its Work, which also wakes it when
/// it is done. So peers, which ring the doorbell, wake a rank that waits for something, and no other.
///
/// No wake-up is lost: where there is work there is a holder, or somebody was woken to become one. A
/// holder looks for submissions once more when it gives the baton back; who submits later finds no
/// holder and wakes the thread. A caller that was woken and has no use for the baton any more wakes the
/// next. (test/model/baton.pml)

#include <atomic>
#include <condition_variable>
#include <deque>
#include <mutex>

#include "base/doorbell.h"
#include "engine/waiters.h"

namespace kolo::core {

class Work;

/// Thread-safe.
class Baton {
 public:
  /// What the holder does.
  class Holder {
   public:
    virtual ~Holder() = default;

    /// Works until the operation (if there is one) is done, the baton is recalled, or nothing is
    /// left.
    virtual void run(const Work* awaited) = 0;

    /// Whether something is under way, or was submitted. Called by who holds the baton.
    virtual bool has_work() = 0;
  };

  /// `doorbell`, rung by the planes, is where the holder sleeps. It must live as
  /// long as somebody holds the baton.
  explicit Baton(Doorbell& doorbell) : doorbell_(doorbell) {}

  /// Before anything is submitted, and before the thread runs.
  void serve(Holder& holder) { holder_ = &holder; }

  /// There is something new to do. `awaited`: who calls will call await() at once, so unless
  /// somebody works already nobody is woken.
  void call(bool awaited = false);

  /// For a caller that has something to do by itself, if nobody holds the baton and there is no work: true when
  /// it holds it now. It must give_back().
  bool take_if_idle();

  /// Returns when the operation is done, and works on it meanwhile if nobody else does.
  void await(const Work& work);

  /// A holder is to give the baton on.
  bool recalled() const { return recalled_.load(std::memory_order_relaxed); }

  /// From now on only the thread gets the baton.
  void close();

  /// Who waits for operations.
  Waiters& waiters() { return waiters_; }

  /// By the thread: returns with the baton when there is work.
  void take();
  void give_back();

 private:
  enum class State { Nobody, Thread, Caller };

  void release();
  void wake_next();

  Doorbell& doorbell_;
  Waiters waiters_;
  Holder* holder_ = nullptr;
  std::atomic<bool> recalled_ = false;  // written under mutex_

  std::mutex mutex_;
  // The rest is guarded by mutex_.
  std::condition_variable turn_;
  State state_ = State::Nobody;
  /// There is work, and nobody holds the baton.
  bool needed_ = false;
  bool closed_ = false;
  /// What the callers wait for that sleep.
  std::deque<const Work*> waiting_;
};

}  // namespace kolo::core
