#include "bench/report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace kolo::bench {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

Result result() {
  return {
      .labels = {{"bytes", 65536}, {"dtype", "float32"}},
      .method = "mpi",
      .quantity = "time",
      .unit = "us",
      .value = {.p25 = 1.5, .median = 12.25, .p75 = 1234.75, .p99 = 1500, .max = 4000.5, .n = 17}};
}

TEST(Report, JsonLine) {
  EXPECT_EQ(to_json_line("allreduce", 2, result()),
            R"({"benchmark":"allreduce","ranks":2,"bytes":65536,"dtype":"float32","method":"mpi",)"
            R"("quantity":"time","unit":"us","p25":1.5,"median":12.25,"p75":1234.75,"p99":1500.0,)"
            R"("max":4000.5,"n":17})");
}

TEST(Report, JsonLineWithARatio) {
  Result compared = result();
  compared.ratio = {.p25 = 0.25, .median = 0.5, .p75 = 1, .p99 = 2, .max = 4, .n = 16};
  const auto line = nlohmann::json::parse(to_json_line("allreduce", 2, compared));
  EXPECT_EQ(line["ratio"], (nlohmann::json{{"p25", 0.25},
                                           {"median", 0.5},
                                           {"p75", 1},
                                           {"p99", 2},
                                           {"max", 4},
                                           {"n", 16}}));
}

TEST(Report, Row) {
  Result compared = result();
  EXPECT_THAT(table_row(compared), HasSubstr("64 KiB"));
  EXPECT_THAT(table_row(compared), HasSubstr("12.25 us"));
  EXPECT_THAT(table_row(compared), HasSubstr("1.500 us .. 1235 us"));
  EXPECT_THAT(table_row(compared), Not(HasSubstr("0.500")));
  compared.ratio = {.p25 = 0.25, .median = 0.5, .p75 = 1, .n = 16};
  EXPECT_THAT(table_row(compared), HasSubstr("0.500   0.250 .. 1.000"));
}

TEST(Report, RatiosOfARowHaveThreeDigits) {
  Result compared = result();
  const auto row = [&compared](double p25, double median, double p75) {
    compared.ratio = {.p25 = p25, .median = median, .p75 = p75, .p99 = p75, .max = p75, .n = 16};
    return table_row(compared);
  };
  EXPECT_THAT(row(0.9714, 0.99951, 1.0449), HasSubstr(" 1.000   0.971 .. 1.045"));
  EXPECT_THAT(row(0.08764, 0.09876, 0.09999), HasSubstr(" 0.0988  0.0876 .. 0.100"));
  EXPECT_THAT(row(-0.004321, 0, 0.01234), HasSubstr(" 0.000 -0.00432 .. 0.0123"));
  EXPECT_THAT(row(9.876, 98.76, 987.6), HasSubstr(" 98.76   9.876 .. 987.6"));
}

TEST(Report, BytesOfARow) {
  Result memory = result();
  memory.unit = "bytes";
  memory.value = {.p25 = 1 << 20, .median = 3 << 19, .p75 = 2 << 20, .n = 3};
  EXPECT_THAT(table_row(memory), HasSubstr("1.5 MiB"));
  EXPECT_THAT(table_row(memory), HasSubstr("1 MiB .. 2 MiB"));
}

TEST(Report, Bytes) {
  EXPECT_EQ(render_bytes(0), "0 B");
  EXPECT_EQ(render_bytes(1023), "1023 B");
  EXPECT_EQ(render_bytes(1024), "1 KiB");
  EXPECT_EQ(render_bytes(-1536), "-1.5 KiB");
  EXPECT_EQ(render_bytes(64 << 20), "64 MiB");
}

}  // namespace
}  // namespace kolo::bench
