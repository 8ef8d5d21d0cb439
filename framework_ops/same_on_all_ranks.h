#pragma once

/// Do all ranks mean the same thing? Asked once, before they rely on it.

#include <kolo/process_set.h>

#include <string>
#include <vector>

namespace kolo::detail {

/// Collective. Compares `lines`, which describe something of every rank in words, and throws
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
