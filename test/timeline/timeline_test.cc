// What a timeline records.

#include <gtest/gtest.h>

#include <string_view>
#include <vector>

#include "timeline_fixture.h"

namespace kolo::core {
namespace {

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

TEST(Timeline, RecordsSlicesAndInstants) {
  const TemporaryPath path;
  {
    const auto timeline = open_timeline(options_for(path));
    const Timeline::Track track = timeline->add_track("collectives 0");
    const std::vector<std::string_view> tensors = {"fc.bias", "fc.weight"};
    timeline->slice(track, "allreduce", TimePoint(1s + 5us), TimePoint(1s + 9us),
                    {{"tensors", tensors}, {"bytes", 2052}, {"plane", "shm"}});
    timeline->slice(track, "reduce", TimePoint(1s + 6001ns), TimePoint(1s + 9us));
    timeline->instant(track, "plan", TimePoint(1s + 7us), {{"hash", "a1"}});
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
  TimelineOptions options = options_for(path);
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

}  // namespace
}  // namespace kolo::core
