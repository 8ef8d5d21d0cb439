#include "doubles/support.h"

#include <cstdint>
#include <cstdlib>

namespace kolo::doubles {
namespace {

/// Of a process in which ThreadSanitizer has reported something.
constexpr int kExitStatusOfReport = 66;

/// ThreadSanitizer forgets old accesses, so on a busy machine it can overlook a race.
constexpr std::uint64_t kTries = 10;

/// In a process of its own, which the report ends.
void expect_reported(const std::function<int()>& run, const std::function<void()>& mutate) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto run_mutated = [&] {
    for (std::uint64_t seed = 0; seed < kTries; ++seed) {
      reset({.seed = seed});
      mutate();
      run();
    }
    std::exit(0);
  };
  EXPECT_EXIT(run_mutated(), ::testing::ExitedWithCode(kExitStatusOfReport), "data race");
}

}  // namespace

void expect_seen(const std::function<int()>& run, const std::function<void()>& mutate) {
  if (kRacesEndTheProgram) return expect_reported(run, mutate);
  int wrong = 0;
  for (std::uint64_t seed = 0; seed < 100 && wrong == 0; ++seed) {
    reset({.seed = seed});
    mutate();
    wrong = run();
  }
  EXPECT_GT(wrong, 0);
}

}  // namespace kolo::doubles
