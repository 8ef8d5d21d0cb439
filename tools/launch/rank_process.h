// kolorun's part beside each rank: mpirun starts it, it starts the user's program, and tells
// kolorun what that says and how it ends (frames.h).
#pragma once

#include <string>
#include <vector>

namespace kolo::launch {

/// The word with which kolorun calls itself for this, followed by the job's folder and the user's
/// command.
inline constexpr auto kRankWord = "@rank";

/// Signals that mpirun forwards to the ranks of all hosts, which it does not do for those that they
/// stand for. The program itself ignores them.
inline constexpr int kForwardedSigterm = 50;
inline constexpr int kForwardedSigint = 51;

/// Runs the command to its end, in this process's group, to which mpirun's signals go. When mpirun
/// has gone, all of the group is ended. Returns what the command exits with; a signal that ended it
/// ends this process, too.
int run_rank(const std::string& folder, const std::vector<std::string>& command);

}  // namespace kolo::launch
