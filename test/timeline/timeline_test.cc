#include "engine/timeline.h"
#include "engine/trace_file.h"

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
#include <utility>
#include <vector>

#include "trace_reader.h"

namespace kolo::core {
namespace {

using namespace std::chrono_literals;
using TimePoint = Timeline::TimePoint;

struct Options : Timeline::Options {
  std::string path;
  bool create = true;
};

std::unique_ptr<Timeline> open_timeline(const Options& options) {
  Result<TraceFile> file = TraceFile::open(options.path, options.create);
  if (!file.ok()) {
    fmt::print(stderr, "{}\n", file.status().message());
    std::abort();
  }
  Result<std::unique_ptr<Timeline>> timeline =
      Timeline::open(std::make_unique<TraceFile>(std::move(file).value()), options);
  if (!timeline.ok()) {
    fmt::print(stderr, "{}\n", timeline.status().message());
    std::abort();
  }
  return std::move(timeline).value();
}

Options options_for(const TemporaryPath& path) {
  Options options;
  options.path = path.string();
  options.rank = 3;
  options.host = "node\"1";
  options.origin = TimePoint(1s);
  return options;
}

TEST(Timeline, DescribesItsRankAndTracks) {
  const TemporaryPath path;
  {
    const auto timeline = open_timeline(options_for(path));
    timeline->add_track("optimizer");
    timeline->add_track("gradients");
  }
  const std::vector<Json> events = read_events(path.string());
  ASSERT_EQ(events.size(), 6U);
  for (const Json& event : events) {
    EXPECT_EQ(event["ph"], "M");
    EXPECT_EQ(event["pid"], 3);
  }
  EXPECT_EQ(events[0]["name"], "process_name");
  EXPECT_EQ(events[0]["args"]["name"], "rank 3 (node\"1)");
  EXPECT_EQ(events[1]["name"], "process_sort_index");
  EXPECT_EQ(events[1]["args"]["sort_index"], 3);
  EXPECT_EQ(events[4]["name"], "thread_name");
  EXPECT_EQ(events[4]["args"]["name"], "gradients");
  EXPECT_EQ(events[4]["tid"], 2);
  EXPECT_EQ(events[5]["name"], "thread_sort_index");
  EXPECT_EQ(events[5]["args"]["sort_index"], 2);
}

TEST(Timeline, RecordsSlicesInstantsAndCounters) {
  const TemporaryPath path;
  {
    const auto timeline = open_timeline(options_for(path));
    const Timeline::Track track = timeline->add_track("collectives 0");
    const std::vector<std::string_view> tensors = {"fc.bias", "fc.weight"};
    timeline->slice(track, "allreduce", TimePoint(1s + 5us), TimePoint(1s + 9us),
                    {{"tensors", tensors}, {"bytes", 2052}, {"plane", "shm"}});
    timeline->slice(track, "reduce", TimePoint(1s + 6001ns), TimePoint(1s + 9us));
    timeline->instant(track, "plan", TimePoint(1s + 7us), {{"hash", "a1"}});
    timeline->counter("lateness", TimePoint(1s), 1.5);
  }
  const std::vector<Json> events = read_events(path.string());
  const std::vector<Json> slices = with_phase(events, "X");
  ASSERT_EQ(slices.size(), 2U);
  EXPECT_EQ(slices[0], Json::parse(R"({"ph":"X","pid":3,"tid":1,"ts":5.0,"dur":4.0,
      "name":"allreduce",
      "args":{"tensors":["fc.bias","fc.weight"],"bytes":2052,"plane":"shm"}})"));
  EXPECT_EQ(slices[1], Json::parse(R"({"ph":"X","pid":3,"tid":1,"ts":6.001,"dur":2.999,
      "name":"reduce"})"));
  EXPECT_EQ(with_phase(events, "i").at(0), Json::parse(R"({"ph":"i","pid":3,"tid":1,"ts":7.0,
      "name":"plan","s":"t","args":{"hash":"a1"}})"));
  EXPECT_EQ(with_phase(events, "C").at(0), Json::parse(R"({"ph":"C","pid":3,"tid":0,"ts":0.0,
      "name":"lateness","args":{"value":1.5}})"));
}

TEST(Timeline, PairsAsyncSlicesAndArrowsById) {
  const TemporaryPath path;
  {
    const auto timeline = open_timeline(options_for(path));
    const Timeline::Track from = timeline->add_track("gradients");
    const Timeline::Track to = timeline->add_track("collectives 0");
    for (const auto start : {1s, 2s}) {
      timeline->async_slice(from, "negotiation", TimePoint(start), TimePoint(start + 5s),
                            {{"tensor", "w"}});
      timeline->arrow("ready", {from, TimePoint(start)}, {to, TimePoint(start + 1us)});
    }
  }
  const std::vector<Json> events = read_events(path.string());
  const std::vector<Json> begins = with_phase(events, "b");
  const std::vector<Json> ends = with_phase(events, "e");
  ASSERT_EQ(begins.size(), 2U);
  ASSERT_EQ(ends.size(), 2U);
  for (std::size_t i = 0; i < 2; ++i) {
    for (const char* key : {"name", "cat", "id2", "pid", "tid"}) {
      EXPECT_EQ(begins[i][key], ends[i][key]) << key;
    }
    EXPECT_EQ(begins[i]["args"]["tensor"], "w");
    EXPECT_EQ(ends[i]["ts"].get<double>() - begins[i]["ts"].get<double>(), 5e6);
  }
  EXPECT_NE(begins[0]["id2"], begins[1]["id2"]);

  const std::vector<Json> starts = with_phase(events, "s");
  const std::vector<Json> finishes = with_phase(events, "f");
  ASSERT_EQ(starts.size(), 2U);
  ASSERT_EQ(finishes.size(), 2U);
  for (std::size_t i = 0; i < 2; ++i) {
    for (const char* key : {"name", "cat", "id"}) EXPECT_EQ(starts[i][key], finishes[i][key]);
    EXPECT_EQ(starts[i]["tid"], 1);
    EXPECT_EQ(finishes[i]["tid"], 2);
    EXPECT_EQ(finishes[i]["bp"], "e");
    // Not that of an arrow of another rank.
    EXPECT_EQ(starts[i]["id"].get<std::int64_t>() >> 32, 3);
  }
  EXPECT_NE(starts[0]["id"], starts[1]["id"]);
}

TEST(Timeline, BringsOtherHostsOntoTheClockOfRank0) {
  const TemporaryPath path;
  Options options = options_for(path);
  options.origin = TimePoint(100s);
  options.clock_offset = 90s;  // this host was booted later
  {
    const auto timeline = open_timeline(options);
    timeline->instant(timeline->add_track("t"), "now", TimePoint(10s + 3us));
  }
  EXPECT_EQ(with_phase(read_events(path.string()), "i").at(0)["ts"], 3.0);
}

TEST(Timeline, NeverWritesASliceThatEndsBeforeItBegins) {
  const TemporaryPath path;
  {
    const auto timeline = open_timeline(options_for(path));
    const Timeline::Track track = timeline->add_track("t");
    timeline->slice(track, "s", TimePoint(2s), TimePoint(1s));
    timeline->async_slice(track, "a", TimePoint(2s), TimePoint(1s));
    timeline->arrow("f", {track, TimePoint(2s)}, {track, TimePoint(1s)});
  }
  const std::vector<Json> events = read_events(path.string());
  EXPECT_EQ(with_phase(events, "X").at(0)["dur"], 0.0);
  EXPECT_EQ(with_phase(events, "b").at(0)["ts"], with_phase(events, "e").at(0)["ts"]);
  EXPECT_EQ(with_phase(events, "s").at(0)["ts"], with_phase(events, "f").at(0)["ts"]);
}

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
  Options options = options_for(path);
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
    Options options = options_for(path);
    std::string message;
    options.on_error = [&](const std::string& text) {
      message = text;
      ++told;
    };
    {
      const auto timeline = open_timeline(options);
      const Timeline::Track track = timeline->add_track("t");
      for (int i = 0; i < 100 && told == 0; ++i) {
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
  Options options = options_for(path);
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
  std::this_thread::sleep_for(300ms);
  const std::string before = sleeps_of_writer();
  EXPECT_NE(before, "no thread");
  std::this_thread::sleep_for(500ms);
  EXPECT_EQ(sleeps_of_writer(), before);
}

TEST(Lanes, NeverOverlap) {
  const TemporaryPath path;
  const auto timeline = open_timeline(options_for(path));
  Lanes lanes(*timeline, "collectives");
  const auto pick = [&](int begin, int end) {
    return lanes.pick(TimePoint(begin * 1us), TimePoint(end * 1us)).number;
  };
  EXPECT_EQ(pick(1, 5), 1);
  EXPECT_EQ(pick(5, 8), 1);
  EXPECT_EQ(pick(0, 10), 2);
  EXPECT_EQ(pick(9, 11), 1);
  EXPECT_EQ(pick(9, 12), 3);
  EXPECT_EQ(pick(12, 13), 1);
}

TEST(Lanes, AreNamedTracks) {
  const TemporaryPath path;
  {
    const auto timeline = open_timeline(options_for(path));
    Lanes lanes(*timeline, "collectives");
    lanes.pick(TimePoint(0s), TimePoint(2s));
    lanes.pick(TimePoint(1s), TimePoint(3s));
  }
  const std::vector<Json> events = read_events(path.string());
  EXPECT_EQ(events.at(2)["args"]["name"], "collectives 0");
  EXPECT_EQ(events.at(4)["args"]["name"], "collectives 1");
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
