#pragma once

/// Ranks as threads that meet at places of the test's choice, on each kind of planes.

#include <gtest/gtest.h>

#include <barrier>
#include <cstdint>
#include <functional>

#include "job.h"

namespace kolo::core {

class RanksFixture : public ::testing::TestWithParam<job::Job::Planes> {
 protected:
  /// A job of `size` ranks that meet, outside of Kolo, wherever the body says so.
  void run(int size, const std::function<void(Context&, int rank, std::barrier<>&)>& body) {
    job::Job job(size, GetParam(), ++jobs_);
    std::barrier<> meeting(size);
    job.run([&](Context& context) { body(context, context.topology().rank, meeting); });
  }

 private:
  std::uint64_t jobs_ = 0;
};

}  // namespace kolo::core
