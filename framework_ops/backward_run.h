#pragma once

/// One run of the autograd engine, and what has to be done when it ends.

#include <cstdint>
#include <map>
#include <memory>
#include <utility>

#include "context/context.h"

namespace kolo {

/// A run in which an optimizer's parameters get gradients. It belongs to the engine, which ends it when
/// backward is over, or drops it when an exception ends the backward.
///
/// A run may reach several optimizers, in another order on each rank. So each of them closes its round
/// before any waits for what the other ranks say, and they wait in the order of their ids. What ranks
/// do about optimizers that others have not reached: optimizer_family.h.
class BackwardRun : public std::enable_shared_from_this<BackwardRun> {
 public:
  /// Process set and plan: the same on all ranks, and another one for each optimizer.
  using Id = std::pair<core::ChannelId, core::PlanId>;

  class Owner {
   public:
    virtual ~Owner() = default;
    virtual Id id() const = 0;
    /// Not to wait for other ranks. `failed`: an exception has ended the run.
    virtual void end_backward(const BackwardRun& run, bool failed) = 0;
    /// After all owners' end_backward(), if the run synchronises. Not to wait for other ranks.
    virtual void call_others() = 0;
    /// After all owners' call_others(), if the run synchronises. May throw.
    virtual void finish_backward() = 0;
  };

  /// To be called from within a run of the engine.
  static std::shared_ptr<BackwardRun> begin(std::shared_ptr<Owner> owner, bool synchronises);

  ~BackwardRun();
  BackwardRun(const BackwardRun&) = delete;
  BackwardRun& operator=(const BackwardRun&) = delete;

  bool ended() const { return ended_; }
  bool synchronises() const { return synchronises_; }
  core::Clock::time_point began() const { return began_; }

 private:
  BackwardRun(std::shared_ptr<Owner> owner, bool synchronises);

  /// The runs that one run of the engine has ended, and that have not waited yet. With a GPU its
  /// thread may end them, and another one drop them.
  struct Ending {
    std::map<Id, BackwardRun*> waiting;
    bool called = false;

    void wait_for_next();
  };

  void end();
  void wait();

  /// Of the run of the engine that is ending on this thread.
  static thread_local std::weak_ptr<Ending> ending_;

  const bool synchronises_;
  const core::Clock::time_point began_ = core::Clock::now();
  const std::shared_ptr<Owner> owner_;
  bool ended_ = false;
  /// It has closed its round, and not waited yet.
  bool waits_ = false;
};

}  // namespace kolo
