#pragma once

/// What tests with ranks as threads begin with: their words, and ranks that meet at places of the
/// test's choice.

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <barrier>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "job.h"
#include "programs.h"

namespace kolo::core {

using job::error_of;
using job::Job;
using programs::Call;
using programs::Recipe;
using programs::Set;
using ::testing::AllOf;
using ::testing::AnyOf;
using ::testing::HasSubstr;

/// What a rank does. It meets the others, outside of Kolo, wherever it says so.
using MeetingBody = std::function<void(Context&, int rank, std::barrier<>&)>;

inline void run_meeting(Job& job, const MeetingBody& body) {
  std::barrier<> meeting(job.size());
  job.run([&](Context& context) { body(context, context.topology().rank, meeting); });
}

/// On each kind of planes.
class RanksFixture : public ::testing::TestWithParam<Job::Planes> {
 protected:
  void run(int size, const MeetingBody& body) {
    Job job(size, GetParam(), ++jobs_);
    run_meeting(job, body);
  }

 private:
  std::uint64_t jobs_ = 0;
};

}  // namespace kolo::core
