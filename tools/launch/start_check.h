// Why ranks on other hosts have not come.
#pragma once

#include <string>
#include <vector>

#include "launch/hosts.h"

namespace kolo::launch {

/// Asks each host for a sign of life by the command `remote_shell` HOST true, all at once. Returns
/// text for a message: the hosts that gave none within 10 s, and the reason that was given; or what
/// else to look at.
std::string explain_missing(const std::vector<std::string>& remote_shell,
                            const std::vector<Host>& hosts);

}  // namespace kolo::launch
