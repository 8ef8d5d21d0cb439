#pragma once

/// Whether each wait of a program is needed: with any one left out some result comes out wrong,
/// with none none does.

#include <gtest/gtest.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

namespace kolo::core {

/// Runs the program, with delays that follow from the seed, without one of its waits. Gives the
/// number of results that are wrong.
using RunWithout = std::function<int(std::uint64_t seed, std::optional<std::int64_t> left_out)>;

inline void expect_right_with_all(const RunWithout& run) {
  constexpr std::uint64_t kSeeds = 4;
  for (std::uint64_t seed = 1; seed <= kSeeds; ++seed) EXPECT_EQ(run(seed, std::nullopt), 0);
}

/// Of so many waits those that nobody misses.
inline std::vector<std::int64_t> find_not_missed(std::int64_t waits, const RunWithout& run) {
  // One may be left out in vain: what it waits for may have been early,
  // on a busy machine most often.
  constexpr std::uint64_t kMostSeeds = 60;
  std::vector<std::int64_t> not_missed;
  for (std::int64_t i = 0; i < waits; ++i) {
    int wrong = 0;
    for (std::uint64_t seed = 1; seed <= kMostSeeds && wrong == 0; ++seed) wrong = run(seed, i);
    if (wrong == 0) not_missed.push_back(i);
  }
  return not_missed;
}

}  // namespace kolo::core
