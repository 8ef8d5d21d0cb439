#pragma once

/// Finds ranks that wait for each other in a circle: one in an optimizer's round, another in an
/// all-reduce, for example. Without it they would wait for ever. No time decides: a rank that
/// computes, or is stopped, is late, and is waited for.
///
///   a rank      meaning                            leaves it
///   ----------  ---------------------------------  -------------------------------------------
///   free        one of its threads is elsewhere    all its threads have waited for operations,
///               (waiters.h), or something has      without a change, for a second
///               changed since                      (Config::circle_after) -> blocked
///   blocked     it has sent Blocked to each lower  a thread begins or ends to wait, comes or
///               rank, with its epoch               goes; something is submitted or agreed on:
///                                                  another epoch -> free
///
///   a detector  each blocked rank, for itself and  leaves it
///               higher ones that said Blocked
///   ----------  ---------------------------------  -------------------------------------------
///   quiet       they can all go on, as far as it   they cannot, itself among them: it asks each
///               knows                              of the others (CircleQuestion) -> asks
///   asks        who answers that it still waits,   those that have confirmed cannot go on
///               with the epoch of its Blocked,     -> found; another Blocked has come, and makes
///               and what it has not submitted,     another circle -> asks anew
///               has confirmed
///   found       all ranks are told, and fail       -
///
/// A rank *can go on* when any operation that one of its threads waits for can be done, which needs
/// every member that has not submitted it to go on. A rank that is free, has left, or has not
/// confirmed may always. What this leaves over waits for itself.
///
/// Why that is certain, although reports are old when they are heard: each rank has waited without
/// a change from its Blocked until its answer, and all answers are later than all of these reports,
/// so there is a moment at which all waited, as they have said. Who has not submitted an operation
/// when it answers had not at that moment. What is on its way then is none of what they wait for:
/// an operation that all have submitted can be done. In a process set "go ahead" comes to all in
/// one order, so a rank says only to one that has heard it equally often that it lacks an operation
/// (which may have failed on one of them before: failures count, too).
///
/// The lowest rank of a circle hears of all the others, so there is one that finds it, also if
/// others compute. (test/model/circle.pml)

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "wire/messages.h"

namespace kolo::core {

/// What one rank knows of the others. No I/O and no thread, so that a test can drive it.
class CircleDetector {
 public:
  /// Whether this rank has not submitted it.
  using Lacks = std::function<bool(const AwaitedOperation&)>;

  explicit CircleDetector(int rank) : rank_(rank) {}

  /// That rank, maybe this one, waits; or does not any more.
  void hear(int rank, Blocked blocked);
  void forget(int rank) { blocked_.erase(rank); }
  void hear(int rank, const CircleAnswer& answer);

  /// The questions that are to be asked now, and whom.
  std::vector<std::pair<int, CircleQuestion>> ask();

  /// What the ranks do that wait for each other, if that is certain.
  std::optional<std::string> find(const Lacks& lacks) const;

 private:
  struct Inquiry {
    std::uint64_t number = 0;
    /// Their epochs, by rank.
    std::map<int, std::uint64_t> asked;
    /// Those of all, one rank's after the other's, and where each rank's begin.
    std::vector<AwaitedOperation> operations;
    std::map<int, std::size_t> first;
    /// Those that have confirmed: by operation, 1 where they have not submitted it.
    std::map<int, std::vector<std::uint8_t>> lacks;
  };

  /// Whether `member` may lack this operation of `rank`, of which it is number `index`.
  using MayLack = std::function<bool(int member, int rank, std::size_t index)>;
  std::set<int> stuck(std::set<int> ranks, const MayLack& may_lack) const;
  std::string describe(const std::set<int>& circle) const;

  const int rank_;
  std::map<int, Blocked> blocked_;
  Inquiry inquiry_;
};

}  // namespace kolo::core
