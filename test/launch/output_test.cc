#include "launch/output.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "expect_usage_error.h"

namespace kolo::launch {
namespace {

TEST(Output, PrintsWholeLinesWithTheirRank) {
  Output lines(2, true, "");
  Printed printed;
  lines.add(0, Stream::Output, "a", printed);
  lines.add(1, Stream::Output, "b\nc", printed);
  lines.add(0, Stream::Error, "x\n\n", printed);
  lines.flush_prompts(printed);
  EXPECT_EQ(printed.output, "[1] b\n");
  EXPECT_EQ(printed.error, "[0] x\n[0] \n");
  lines.add(0, Stream::Output, "d\n", printed);
  EXPECT_EQ(printed.output, "[1] b\n[0] ad\n");
  lines.finish(printed);
  EXPECT_EQ(printed.output, "[1] b\n[0] ad\n[1] c\n");
}

TEST(Output, WithoutRanksPromptsAppear) {
  Output lines(2, false, "");
  Printed printed;
  lines.add(0, Stream::Output, "10 %\r", printed);
  EXPECT_TRUE(lines.has_prompts());
  lines.add(1, Stream::Output, "b\n", printed);
  EXPECT_EQ(printed.output, "b\n");
  lines.flush_prompts(printed);
  EXPECT_FALSE(lines.has_prompts());
  lines.add(0, Stream::Output, "20 %\n", printed);
  lines.finish(printed);
  EXPECT_EQ(printed.output, "b\n10 %\r20 %\n");
}

TEST(Output, WritesAFileForEachRank) {
  const auto folder = testing::TempDir() + "kolo_output_test/new";
  {
    Output lines(11, true, folder);
    Printed printed;
    lines.add(3, Stream::Output, "out\n", printed);
    lines.add(3, Stream::Error, "error", printed);
  }
  std::stringstream text;
  text << std::ifstream(folder + "/rank.03").rdbuf();
  EXPECT_EQ(text.str(), "out\nerror");
  EXPECT_TRUE(std::filesystem::exists(folder + "/rank.10"));
  std::filesystem::remove_all(testing::TempDir() + "kolo_output_test");
  expect_usage_error([] { Output(1, false, "/dev/null/no"); },
                     {"--output-dir: '/dev/null/no/rank.0'"});
}

}  // namespace
}  // namespace kolo::launch
