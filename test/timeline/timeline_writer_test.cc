// The thread that writes a timeline, and those that record: what is lost, and what it costs.

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "timeline_fixture.h"

namespace kolo::core {
namespace {

TEST(Timeline, FlushesToItsSink) {
  class Collecting final : public TraceSink {
   public:
    explicit Collecting(std::string& text) : text_(text) {}
    Status append(std::string_view lines) override {
      text_ += lines;
      return {};
    }

   private:
    std::string& text_;
  };
  std::string text;
  Result<std::unique_ptr<Timeline>> timeline =
      Timeline::open(std::make_unique<Collecting>(text), Timeline::Options());
  ASSERT_TRUE(timeline.ok());
  timeline.value()->append("{\"of\":\"another rank\"},\n");
  timeline.value()->flush();
  EXPECT_NE(text.find("another rank"), std::string::npos);
  timeline.value()->flush();
}

TEST(Timeline, RecordsOnManyThreads) {
  constexpr int kThreads = 4;
  constexpr int kEvents = 5000;
  const TemporaryPath path;
  {
    const auto timeline = open_timeline(options_for(path));
    std::vector<std::thread> threads;
    for (int i = 0; i < kThreads; ++i) {
      threads.emplace_back([&] {
        const Timeline::Track track = timeline->add_track("thread");
        for (int k = 0; k < kEvents; ++k) {
          timeline->slice(track, "slice", TimePoint(k * 1us), TimePoint(k * 1us), {{"k", k}});
          if (k % 10 == 0) timeline->arrow("a", {track, TimePoint()}, {track, TimePoint()});
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(timeline->dropped(), 0U);
  }
  const std::vector<Json> events = read_events(path.string());
  std::vector<int> next(kThreads + 1, 0);
  for (const Json& event : with_phase(events, "X")) {
    EXPECT_EQ(event["args"]["k"], next[event["tid"].get<std::size_t>()]++);
  }
  EXPECT_EQ(next, (std::vector<int>{0, kEvents, kEvents, kEvents, kEvents}));
  std::vector<std::int64_t> ids;
  for (const Json& event : with_phase(events, "s")) ids.push_back(event["id"]);
  std::ranges::sort(ids);
  EXPECT_EQ(ids.size(), std::size_t{kThreads * kEvents / 10});
  EXPECT_EQ(std::ranges::adjacent_find(ids), ids.end());
}

TEST(Timeline, CountsWhatItDrops) {
  constexpr std::uint64_t kEvents = 2000;
  const TemporaryPath path;
  TimelineOptions options = options_for(path);
  options.backlog_limit = 20'000;
  std::uint64_t dropped = 0;
  {
    const auto timeline = open_timeline(options);
    const Timeline::Track track = timeline->add_track("t");
    for (std::uint64_t i = 0; i < kEvents; ++i) timeline->instant(track, "i", TimePoint());
    dropped = timeline->dropped();
    EXPECT_GT(dropped, 0U);
    // Tracks are kept, whatever happens.
    timeline->add_track("late");
  }
  const std::vector<Json> events = read_events(path.string());
  EXPECT_EQ(with_phase(events, "i").size() + dropped, kEvents);
  EXPECT_EQ(events.back()["name"], "process_labels");
  EXPECT_EQ(events.back()["args"]["labels"], fmt::format("{} events dropped", dropped));
  EXPECT_EQ(events[events.size() - 3]["args"]["name"], "late");
}

TEST(Timeline, TellsOnceThatTheDiskIsFull) {
  const TemporaryPath path;
  const pid_t child = ::fork();
  if (child == 0) {
    // Without the default action of SIGXFSZ changed: the limit must not end the process.
    const rlimit limit{20'000, 20'000};
    ::setrlimit(RLIMIT_FSIZE, &limit);
    std::atomic<int> told = 0;
    TimelineOptions options = options_for(path);
    std::string message;
    options.on_error = [&](const std::string& text) {
      message = text;
      ++told;
    };
    {
      const auto timeline = open_timeline(options);
      const Timeline::Track track = timeline->add_track("t");
      while (told == 0) {
        for (int k = 0; k < 50; ++k) timeline->instant(track, "i", TimePoint());
        std::this_thread::sleep_for(20ms);
      }
      EXPECT_FALSE(timeline->status().ok());
      for (int k = 0; k < 50; ++k) timeline->instant(track, "i", TimePoint());
      EXPECT_GE(timeline->dropped(), 50U);
    }
    EXPECT_EQ(told, 1);
    EXPECT_EQ(message,
              fmt::format("cannot write the timeline '{}': File too large", path.string()));
    ::_exit(::testing::Test::HasFailure() ? 1 : 0);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
  EXPECT_GT(read_events(path.string()).size(), 100U);
}

TEST(Timeline, LosesLittleWhenItsProcessIsKilled) {
  const TemporaryPath path;
  TimelineOptions options = options_for(path);
  { const auto creator = open_timeline(options); }
  options.create = false;
  options.origin = std::chrono::steady_clock::now();
  const pid_t child = ::fork();
  if (child == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    options.rank = 4;
    const auto timeline = open_timeline(options);
    const Timeline::Track track = timeline->add_track("t");
    for (;;) {
      timeline->instant(track, "alive", std::chrono::steady_clock::now());
      std::this_thread::sleep_for(1ms);
    }
  }
  {
    const auto survivor = open_timeline(options);
    const Timeline::Track track = survivor->add_track("t");
    const auto alive = [&] {
      survivor->instant(track, "alive", std::chrono::steady_clock::now());
      std::this_thread::sleep_for(1ms);
    };
    for (int i = 0; i < 600; ++i) alive();
    // On a busy machine a rank may need longer for its first events.
    while (read_text(path.string()).find(R"("ph":"i","pid":4)") == std::string::npos) alive();
    ::kill(child, SIGKILL);
  }
  const auto killed = std::chrono::steady_clock::now() - options.origin;
  int status = 0;
  ::waitpid(child, &status, 0);
  EXPECT_EQ(status, SIGKILL);
  double last = 0;
  for (const Json& event : with_phase(read_events(path.string()), "i")) {
    if (event["pid"] == 4) last = std::max(last, event["ts"].get<double>());
  }
  EXPECT_GT(last, 0);
  fmt::print("lost: {:.0f} ms\n",
             std::chrono::duration<double, std::milli>(killed).count() - last / 1e3);
}

/// How often the timeline's thread has gone to sleep so far.
std::string sleeps_of_writer() {
  for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
    std::string line;
    std::getline(std::ifstream(task.path() / "comm"), line);
    if (line != "kolo-timeline") continue;
    std::ifstream status(task.path() / "status");
    while (std::getline(status, line)) {
      if (line.starts_with("voluntary_ctxt_switches")) return line;
    }
  }
  return "no thread";
}

TEST(Timeline, SleepsWhileNothingIsRecorded) {
  const TemporaryPath path;
  const auto timeline = open_timeline(options_for(path));
  while (read_events(path.string()).size() < 2) std::this_thread::sleep_for(50ms);
  // As soon as it has nothing left to do: if ever it does not wake for half a second, it sleeps for good.
  std::string before;
  std::string now = sleeps_of_writer();
  EXPECT_NE(now, "no thread");
  for (int i = 0; i < 20 && now != before; ++i) {
    before = now;
    std::this_thread::sleep_for(500ms);
    now = sleeps_of_writer();
  }
  EXPECT_EQ(now, before);
}

/// Printed, not judged: it depends on the machine and what else runs there.
TEST(Timeline, CostOfAnEvent) {
  constexpr int kEvents = 100'000;
  const TemporaryPath path;
  const auto timeline = open_timeline(options_for(path));
  const Timeline::Track track = timeline->add_track("t");
  std::vector<std::string> names;
  for (int i = 0; i < 62; ++i) names.push_back(fmt::format("layer4.{}.conv2.weight", i));
  const std::vector<std::string_view> tensors(names.begin(), names.end());
  const auto measure = [&](std::string_view what, int count, auto&& record) {
    const auto begin = std::chrono::steady_clock::now();
    for (int i = 0; i < count; ++i) record(std::chrono::steady_clock::now());
    const auto end = std::chrono::steady_clock::now();
    fmt::print("{:<28}{:6.0f} ns\n", what,
               std::chrono::duration<double, std::nano>(end - begin).count() / count);
  };
  measure("clock alone", kEvents, [](TimePoint) {});
  measure("slice", kEvents, [&](TimePoint t) { timeline->slice(track, "reduce", t, t); });
  measure("slice with three args", kEvents, [&](TimePoint t) {
    timeline->slice(track, names[0], t, t, {{"bytes", 4096}, {"plane", "shm"}, {"step", 7}});
  });
  measure("slice with 62 tensors", kEvents / 10, [&](TimePoint t) {
    timeline->slice(track, "allreduce", t, t, {{"tensors", tensors}});
  });
  measure("async slice", kEvents,
          [&](TimePoint t) { timeline->async_slice(track, names[0], t, t); });
  measure("arrow", kEvents, [&](TimePoint t) { timeline->arrow("ready", {track, t}, {track, t}); });
  fmt::print("dropped: {}\n", timeline->dropped());
}

}  // namespace
}  // namespace kolo::core
