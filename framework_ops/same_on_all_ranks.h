#pragma once

/// Do all ranks mean the same thing?

#include <kolo/process_set.h>

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

namespace kolo::detail {

/// A line that two ranks do not have alike.
struct LineDifference {
  std::size_t line = 0;
  /// "nothing" where a rank has no such line.
  std::string value, other_value;
  int rank = 0, other_rank = 0;
};

/// Collective, and the same on all ranks: the first difference between the first rank and the first other
/// one that has any. `name` is the operation's.
std::optional<LineDifference> find_difference(const std::string& name,
                                              const std::vector<std::string>& lines,
                                              const ProcessSet& process_set);

/// Collective, asked once, before all rely on it. Compares `lines`, which describe something of every rank in words, and throws
/// kolo::Error on all ranks when they differ: it says `what` differs, and the first line that does,
/// with the ranks; or when a rank has a `refusal`, a reason of its own not to go on. `name` is the
/// operation's. Returns the ranks of the set.
std::vector<int> require_same_on_all_ranks(const std::string& name, const std::string& what,
                                           const std::vector<std::string>& lines,
                                           const std::string& refusal = {},
                                           const ProcessSet& process_set = {});

/// The lines of a text.
std::vector<std::string> split_lines(const std::string& text);

}  // namespace kolo::detail
