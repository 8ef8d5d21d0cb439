#pragma once

#include <kolo/process_set.h>

#include <string>
#include <vector>

namespace kolo::detail {

struct RankText {
  int rank = 0;
  std::string text;
};

/// What each rank of the set has to say, in rank order. Collective; `name` is the operation's.
/// @throws kolo::Error when that fails.
std::vector<RankText> gather_texts(const std::string& name, const std::string& text,
                                   const ProcessSet& process_set);

}  // namespace kolo::detail
