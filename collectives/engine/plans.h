#pragma once

/// Operations that all members of a process set submit in the same order, without asking each other.

#include <map>
#include <vector>

#include "engine/channel.h"
#include "engine/executor.h"
#include "engine/work.h"
#include "wire/messages.h"

namespace kolo::core {

/// The plans that this rank takes part in, and where they end. A member that leaves says how many
/// operations of each plan it has submitted: it still runs those, and the others' later ones fail. Used by
/// one thread at a time.
class Plans {
 public:
  explicit Plans(Executor& executor) : executor_(executor) {}

  /// Hands an operation of a plan (`submission.plan`) of `set` to the executor. `rank`: this one.
  void start(Submission submission, const Channel& set, int rank);

  /// How many operations of each plan this rank has submitted.
  std::vector<PlanProgress> progress() const;

  /// Ends the plans of a set where this member has, also those of which nothing was submitted yet.
  void end(const MemberLeft& member_left);

 private:
  void apply(const MemberLeft& member_left);

  Executor& executor_;
  /// By process set.
  std::map<ChannelId, std::vector<MemberLeft>> departures_;
};

}  // namespace kolo::core
