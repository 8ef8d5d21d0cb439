#pragma once

/// Operations that all members of a process set submit in the same order, without asking each other.

#include <map>
#include <optional>
#include <set>
#include <vector>

#include "engine/channel.h"
#include "engine/executor.h"
#include "engine/work.h"
#include "wire/messages.h"

namespace kolo::core {

/// The plans that this rank takes part in, and where they end. A member that leaves says how many
/// operations of each plan it has submitted: it still runs those, and the others' later ones fail,
/// or, of a name that recurs, are the leader's to fail (recurrence.h). So does one that ends a
/// plan, of this one. Used by one thread at a time.
///
///   a plan of this rank                 what it has here          leaves it
///   ----------------------------------  ------------------------  --------------------------------------
///   nothing submitted yet               nothing                   start() -> open
///   open                                a channel                 PlanEnd from a member, or it has left ->
///                                                                 ended; of a name: an operation that a
///                                                                 member has declined -> over
///   ended from an operation on, the     a channel, if anything    PlanEnd from every member, this one as
///   first that some member lacks        was submitted; the words  well -> over
///   over: nobody submits anything       a channel, until what is  its last operation
///                                       in flight is done
class Plans {
 public:
  explicit Plans(Executor& executor) : executor_(executor) {}

  /// Hands an operation of a plan (`submission.plan`) of `set` to the executor. `rank`: this one.
  void start(SubmissionPtr submission, const Channel& set, int rank);

  /// How many operations of each plan this rank has submitted, or of one. Of a plan
  /// that it has left because a member declined, it has nothing any more.
  std::vector<PlanProgress> progress() const;
  PlanProgress progress(ChannelId plan) const;
  std::optional<std::uint64_t> submitted(ChannelId plan) const;

  /// From now on this rank submits nothing more of the plan. Gives what it has.
  PlanProgress end_here(ChannelId plan);
  bool has_ended_here(ChannelId plan) const { return ended_here_.contains(plan); }

  /// Ends the plans of a set where this member has, also those of which nothing was submitted yet.
  void end(const MemberLeft& member_left);

  /// Ends a plan of `set` where a member has.
  void end(const PlanEnd& plan_end, const Channel& set);

 private:
  bool has_ended(ChannelId plan, int rank) const;
  void apply(const MemberLeft& member_left);
  void apply(const PlanEnd& plan_end);

  Executor& executor_;
  /// By process set.
  std::map<ChannelId, std::vector<MemberLeft>> departures_;
  /// By plan, as long as not all members have ended it.
  std::map<ChannelId, std::vector<PlanEnd>> ends_;
  std::set<ChannelId> ended_here_;
};

}  // namespace kolo::core
