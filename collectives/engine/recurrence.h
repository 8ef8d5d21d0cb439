#pragma once

/// All-reduces that recur under one name, and are waited for each time: a metric, a batch's statistics. They
/// need not be negotiated each time.
///
///   a name        event                                             what follows
///   ------------  ------------------------------------------------  -------------------------------------
///   is negotiated the leader finds the same request agreed on as     its "go ahead" gives the name a plan
///                 the last time, by members that all wait for it     of its own: it recurs
///   recurs        the same request is submitted                      it is the plan's next operation, and
///                                                                    starts at once
///   recurs        another request is, or one that is refused         this rank declines the plan's next
///                                                                    operation, and asks the leader: the
///                                                                    name is negotiated
///   recurs        any other member has declined                      nothing was reduced: this rank asks
///                                                                    the leader with the same request: the
///                                                                    name is negotiated
///   recurs        a member has left without the operation            the same: the leader's error for it may be
///                                                                    another's, and others have been told that
///
/// So every member takes part in the plan's n-th operation, if only to decline it, whenever it submits the name:
/// nobody waits for a message that does not come, and all leave the plan at the same operation. What then does not
/// fit is the leader's to say, as ever. A rank submits a name again only when it has been answered, so all have
/// heard of the plan by the time when any uses it.

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>

#include "engine/work.h"
#include "wire/messages.h"

namespace kolo::core {

/// The leader's part.
class RecurrenceFinder {
 public:
  /// An operation was agreed on. Gives the plan that the name has from now on; 0: none.
  PlanId find(const Request& request, bool all_wait);

 private:
  /// What was last agreed on, by name.
  std::unordered_map<std::string, Request> last_;
  PlanId next_ = kMostPlans + 1;
};

/// The names that recur, as a member knows them.
class RecurringNames {
 public:
  struct Name {
    Request request;
    PlanId plan = 0;
    /// The latest submission's, which is held by that until it is done.
    std::weak_ptr<const Work> work;

    bool in_use() const {
      const std::shared_ptr<const Work> latest = work.lock();
      return latest != nullptr && !latest->done();
    }
  };

  /// From now on `request` is an operation of this plan.
  void add(const Request& request, PlanId plan);
  /// Null when it does not recur.
  Name* find(std::string_view name);
  void remove(const std::string& name) { names_.erase(name); }
  /// Whether a name has this plan.
  bool has(PlanId plan) const;

 private:
  /// So that a name can be found that nobody has made a string of.
  struct Hash {
    using is_transparent = void;
    std::size_t operator()(std::string_view name) const { return std::hash<std::string_view>()(name); }
  };

  std::unordered_map<std::string, Name, Hash, std::equal_to<>> names_;
};

}  // namespace kolo::core
