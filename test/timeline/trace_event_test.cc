#include "engine/trace_event.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <limits>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "trace_reader.h"

namespace kolo::core {
namespace {

using std::chrono::nanoseconds;

Json parse(std::string_view line) {
  EXPECT_TRUE(line.ends_with(",\n"));
  EXPECT_EQ(line.find('\n'), line.size() - 1);
  return Json::parse(line.substr(0, line.size() - 2), nullptr, false);
}

std::string through_json(std::string_view text) {
  TraceEvent event('X', 0);
  const Json parsed = parse(event.text("name", text).line());
  return parsed.is_object() ? parsed["name"].get<std::string>() : "no JSON";
}

std::string time_text(std::int64_t ns) {
  TraceEvent event('X', 0);
  std::string line(event.time("ts", nanoseconds(ns)).line());
  const auto begin = line.find("\"ts\":") + 5;
  return line.substr(begin, line.find('}') - begin);
}

TEST(TraceEvent, IsOneLineOfJson) {
  TraceEvent event('X', 3);
  event.number("tid", 2).time("ts", nanoseconds(1'234'567)).text("name", "reduce").local_id(9);
  EXPECT_EQ(event.line(),
            R"({"ph":"X","pid":3,"tid":2,"ts":1234.567,"name":"reduce","id2":{"local":"9"}},)"
            "\n");
}

TEST(TraceEvent, WritesTimesInMicrosecondsToTheNanosecond) {
  EXPECT_EQ(time_text(0), "0.000");
  EXPECT_EQ(time_text(7), "0.007");
  EXPECT_EQ(time_text(1000), "1.000");
  EXPECT_EQ(time_text(-1), "-0.001");
  EXPECT_EQ(time_text(-12'345), "-12.345");
  EXPECT_EQ(time_text(std::numeric_limits<std::int64_t>::max()), "9223372036854775.807");
  EXPECT_EQ(time_text(std::numeric_limits<std::int64_t>::min()), "-9223372036854775.808");
}

TEST(TraceEvent, WritesArgsOfEveryType) {
  const std::vector<std::string_view> tensors = {"a", "b\"", ""};
  const std::vector<std::string_view> none;
  const std::vector<std::int64_t> sizes = {std::int64_t{1} << 40, -2};
  const std::string text = "shm";
  TraceEvent event('X', 0);
  event.args({{"tensors", tensors},
              {"none", none},
              {"sizes", sizes},
              {"bytes", std::size_t{1} << 40},
              {"plane", text},
              {"literal", "mpi"},
              {"late", 0.25},
              {"endless", std::numeric_limits<double>::infinity()},
              {"planned", true},
              {"a \"key\"", -1}});
  const Json expected = {{"tensors", {"a", "b\"", ""}},
                         {"none", Json::array()},
                         {"sizes", {std::int64_t{1} << 40, -2}},
                         {"bytes", std::int64_t{1} << 40},
                         {"plane", "shm"},
                         {"literal", "mpi"},
                         {"late", 0.25},
                         {"endless", "inf"},
                         {"planned", true},
                         {"a \"key\"", -1}};
  EXPECT_EQ(parse(event.line())["args"], expected);
}

TEST(TraceEvent, KeepsValidText) {
  const std::string controls("\0\x01\b\f\n\r\t\x1f\x7f", 9);
  for (const std::string& text :
       {std::string(), std::string("layer1.0.conv1.weight"), std::string(R"(a "quoted" \name\)"),
        controls, std::string("größe ← 梯度 🙂"), std::string("</script>\u2028")}) {
    EXPECT_EQ(through_json(text), text);
  }
}

TEST(TraceEvent, ReplacesWhatIsNotUtf8) {
  const std::string mark = "\uFFFD";
  EXPECT_EQ(through_json("a\xFFz"), "a" + mark + "z");
  EXPECT_EQ(through_json("cut \xE2\x82"), "cut " + mark + mark);
  EXPECT_EQ(through_json("\xC0\xAF"), mark + mark);                        // longer than needed
  EXPECT_EQ(through_json("\xED\xA0\x80"), mark + mark + mark);             // surrogate
  EXPECT_EQ(through_json("\xF4\x90\x80\x80"), mark + mark + mark + mark);  // above U+10FFFF
  EXPECT_EQ(through_json("\xE2(\xA1"), mark + "(" + mark);
}

TEST(TraceEvent, IsJsonForAnyBytes) {
  std::mt19937 random(1);
  for (int round = 0; round < 20'000; ++round) {
    std::string text(random() % 12, ' ');
    // Mostly bytes at the borders of the rules.
    for (char& c : text) {
      constexpr std::string_view kBorders = "\"\\\x1f\x7f\x80\xbf\xc2\xdf\xe0\xed\xef\xf0\xf4 a";
      c = random() % 2 == 0 ? static_cast<char>(random()) : kBorders[random() % kBorders.size()];
    }
    ASSERT_NE(through_json(text), "no JSON") << Json(std::vector<char>(text.begin(), text.end()));
    // nlohmann judges UTF-8 itself: what it can write, we must keep.
    try {
      ASSERT_EQ(Json::parse(Json(text).dump()), text);
    } catch (const Json::exception&) {
      continue;
    }
    ASSERT_EQ(through_json(text), text);
  }
}

}  // namespace
}  // namespace kolo::core
