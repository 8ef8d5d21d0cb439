#pragma once

/// Which optimizers of a process set have a round, and whether step() may follow.

#include <kolo/ops.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "closing_word.h"
#include "context/context.h"
#include "owned_plan.h"
#include "word.h"

namespace kolo {

struct CallHead {
  std::int32_t rank = 0;
  /// In step() of this optimizer; less than 0: at the end of a backward.
  std::int32_t stepping = -1;
  /// The optimizer, and its parameter, whose gradient is not what it was when a rank came late; or none.
  std::int32_t altered_optimizer = -1;
  std::int32_t altered_parameter = -1;
  /// The optimizer that this rank has destroyed: why it calls.
  std::int32_t gone = -1;
};

/// Its flags, by optimizer: whether this rank has closed a round.
using RoundCall = Word<CallHead>;

/// A backward may reach other optimizers on each rank, or none, of which nobody hears. If each rank waited
/// in the rounds of those that it has reached, one could wait in the first optimizer's and another in the
/// second's, for ever. So the optimizers that all ranks have at the same time are a *family*, and a
/// rank of it *calls*: it says which of them it has closed rounds of. Calls are made by all ranks, one
/// after the other, and all finish the same rounds after each.
///
///   event                               what follows
///   ----------------------------------  -----------------------------------------------------------
///   a backward that synchronises ends,  the rank calls, once it has closed its rounds (reducer.h), before it
///   or synchronize() or step() has      waits for anything
///   closed a round
///   all have called                     who has not closed a round that another rank has closes it, with
///                                       what its parameters hold; all finish these rounds
///   some have closed a round in step(), those *came late*. A backward that reaches no parameter does not
///   others in a backward                tell us: on that rank gradients become averages only now, and what
///                                       the program did to them before was not done to the averages.
///                                       All ranks remember their gradients
///   step() of an optimizer for which    the rank calls once more, without a round if it has nothing to
///   a rank came late                    reduce, until all ranks are in that step(). Others may run further
///                                       backwards meanwhile: it takes part in their rounds
///   a rank's gradients are not what     its call says so, and step() (backward(), where a rank is in one)
///   they were after such a round        throws on all ranks before any parameter changes
///   ... on all ranks, in the same       all do the same to averages that are the same: nothing is wrong
///   optimizer
///   an optimizer of several goes        the rank calls, and waits for the others' calls when it next makes one:
///                                       who waits for it in step() is not to wait for ever
///   a call fails (a rank has left, or   the rounds that are closed are finished, which fail as well
///   has no optimizer of it any more)
///
/// A family of one calls only where a rank came late: before that, its rounds are those of all.
///
/// Used by one thread at a time. Two threads that train need a process set each: where a second one comes while the
/// first is in a backward or calls, nobody could tell any more which round belongs to which backward, so the
/// rank gives up, with an error on all ranks.
class OptimizerFamily {
 public:
  /// An optimizer, as the family sees it. What may throw throws kolo::Error,
  /// or for want of memory.
  class Member {
   public:
    virtual ~Member() = default;
    /// Whether it has a round that is closed, and not finished.
    virtual bool closed() const = 0;
    /// Closes one with what it holds.
    virtual void join_round(ClosedIn where) = 0;
    /// Finishes it, and those that follow from it.
    virtual void finish_rounds(ClosedIn where) = 0;
    /// A rank that came late to its last round.
    virtual std::optional<int> latecomer() const = 0;
    /// A parameter whose gradient is not what it was then.
    virtual std::optional<std::size_t> altered() = 0;
    virtual std::string name_of(std::size_t parameter) const = 0;
    /// All ranks have agreed on what is to be done about the latecomer: nothing, or an error.
    virtual void settle_latecomer(const std::string& error) = 0;
  };

  /// Where an optimizer belongs.
  struct Place {
    std::shared_ptr<OptimizerFamily> family;
    /// Its number in the family, and of its plan: the same on all ranks.
    std::size_t number = 0;
    core::PlanId plan = 0;
  };

  /// Collective. Not all ranks have taken part in making the same optimizers before.
  static Place enter(const std::shared_ptr<core::Context>& context, const ProcessSet& process_set);

  OptimizerFamily(const std::shared_ptr<core::Context>& context, const ProcessSet& process_set,
                  core::PlanId plan);

  /// An optimizer's backward on the host has begun, and ended, on this thread. The first throws where another
  /// thread uses the family.
  void begin_backward(std::size_t number);
  void end_backward(std::size_t number) noexcept;

  void add(std::size_t number, Member& member);
  void remove(std::size_t number) noexcept;

  /// At the end of a backward, or in synchronize(): calls, unless that was done, or there is no round.
  void call();
  /// The rest of it. Throws once all rounds are finished.
  void meet(ClosedIn where);
  /// In step() of an optimizer.
  void meet_in_step(std::size_t number);

 private:
  struct Call {
    RoundCall word;
    /// None where a call is not needed.
    std::optional<Work> work;
  };

  /// While a thread calls.
  class Turn {
   public:
    explicit Turn(OptimizerFamily& family);
    ~Turn();
    Turn(const Turn&) = delete;
    Turn& operator=(const Turn&) = delete;

   private:
    OptimizerFamily& family_;
  };

  void require_one_thread();
  Call make_call(std::int32_t stepping) const;
  void conclude(const Call& own, ClosedIn where, std::string& error);
  void conclude_farewells(ClosedIn where, std::string& error);
  bool calls() const;
  Work say(const RoundCall& word) const;
  std::string find_disagreement(const std::vector<RoundCall>& calls) const;

  const std::shared_ptr<core::Context> context_;
  const ProcessSet process_set_;
  const OwnedPlan plan_;
  /// By number; null where it is gone. All ranks have as many.
  std::vector<Member*> members_;
  /// Made at the end of a backward.
  std::optional<Call> call_;
  /// Made when optimizers went, and not concluded yet.
  std::vector<Call> farewells_;

  std::mutex threads_mutex_;
  // The rest is guarded by it. The thread that calls, and how often it has entered.
  std::thread::id caller_;
  int turns_ = 0;
  /// By number: the threads that are in a backward.
  std::map<std::size_t, std::thread::id> backwards_;
};

}  // namespace kolo
