#pragma once

/// All-reduces over NCCL that may fail, on doubles of CUDA and NCCL, and what becomes of them.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <barrier>
#include <chrono>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gpu_ranks.h"

namespace kolo::core {

using gpus::Rank;
using std::chrono::milliseconds;
using ::testing::AllOf;
using ::testing::AnyOf;
using ::testing::ContainsRegex;
using ::testing::Each;
using ::testing::HasSubstr;

constexpr std::int64_t kCount = 50;

inline Collective sum(const Rank& rank, std::uint64_t sequence, ChannelId channel = kWorldChannel) {
  Collective c;
  for (int member = 0; member < rank.size; ++member) c.ranks.push_back(member);
  c.member = rank.rank;
  c.channel = channel;
  c.sequence = sequence;
  c.device = DeviceType::Cuda;
  c.count = kCount;
  return c;
}

inline std::size_t bytes_of(const Collective& c) {
  return static_cast<std::size_t>(c.count) * size_of(c.dtype);
}

inline const std::atomic<bool> kNotGivenUp = false;

/// How an operation went: "done", its error, or "given up", as by the engine when another rank has.
inline std::string finish(const Rank& rank, const StartedOperation& started,
                          const std::atomic<bool>& given_up) {
  if (!started.ok()) return started.status().message();
  while (!given_up) {
    const Result<Operation::Progress> progress = started.value()->progress();
    if (!progress.ok()) return progress.status().message();
    if (progress.value() == Operation::Progress::Done) return "done";
    rank.idle();
  }
  return "given up";
}

/// One all-reduce in the memory of the plane.
class Sum {
 public:
  Sum(Rank& rank, std::uint64_t sequence, ChannelId channel = kWorldChannel)
      : rank_(rank), collective_(sum(rank, sequence, channel)) {
    memory_ = rank.plane.allocate(DeviceType::Cuda, bytes_of(collective_)).value();
    collective_.input = collective_.output = memory_.get();
  }
  ~Sum() { give_up(); }
  Sum(const Sum&) = delete;
  Sum& operator=(const Sum&) = delete;

  /// Unless it is over.
  void give_up() {
    started_ = Status::error("over");
    rank_.plane.drain();
  }

  Collective& collective() { return collective_; }
  Operation& start() {
    started_ = rank_.plane.start(collective_);
    EXPECT_TRUE(started_.ok());
    return *started_.value();
  }
  std::string run(const std::atomic<bool>& given_up = kNotGivenUp) {
    if (!started_.ok()) started_ = rank_.plane.start(collective_);
    return finish(rank_, started_, given_up);
  }
  /// When it was done.
  std::shared_ptr<DeviceEvent> run_and_keep() {
    EXPECT_EQ(run(), "done");
    return started_.value()->issued();
  }

 private:
  Rank& rank_;
  Collective collective_;
  std::shared_ptr<std::byte> memory_;
  StartedOperation started_ = Status::error("not begun");
};

/// How an all-reduce, and another one, went on each rank, which all stay until all have heard.
inline std::vector<std::string> run_sums(int size, const gpus::Options& options) {
  std::vector<std::string> outcomes(static_cast<std::size_t>(size));
  std::barrier<> meeting(size);
  gpus::run(
      size,
      [&](Rank& rank) {
        Sum first(rank, 7);
        std::string& outcome = outcomes[static_cast<std::size_t>(rank.rank)];
        outcome = first.run();
        Sum second(rank, 8);
        // The first failure lasts.
        if (outcome != "done") {
          EXPECT_EQ(second.run(), outcome);
        } else {
          outcome = second.run();
        }
        meeting.arrive_and_wait();
      },
      options);
  return outcomes;
}

/// Others than the rank that fails need not wait for long.
inline gpus::Options with_deadlines(int failing, milliseconds connect, milliseconds done) {
  gpus::Options options;
  options.change_settings = [=](int rank, NcclDataPlane::Settings settings) {
    if (rank == failing) return settings;
    settings.connect_within = connect;
    settings.done_within = done;
    return settings;
  };
  return options;
}

}  // namespace kolo::core
