#include "engine/trace_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <random>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "trace_reader.h"

namespace kolo::core {
namespace {

TraceFile open_file(const std::string& path, bool create) {
  Result<TraceFile> file = TraceFile::open(path, create);
  if (!file.ok()) {
    fmt::print(stderr, "{}\n", file.status().message());
    std::abort();
  }
  return std::move(file).value();
}

/// Lines of 60 to 360 bytes with the writer and a number.
std::string some_lines(int writer, int first, int count) {
  std::string lines;
  for (int i = first; i < first + count; ++i) {
    lines += fmt::format("{{\"writer\":{},\"number\":{},\"filler\":\"{:x>{}}\"}},\n", writer, i, "",
                         20 + i * 37 % 300);
  }
  return lines;
}

/// Runs in a process of its own, which ends without destructors.
pid_t in_child(const std::function<void()>& body) {
  const pid_t child = ::fork();
  if (child == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    body();
    ::_exit(::testing::Test::HasFailure() ? 1 : 0);
  }
  return child;
}

int wait_for(pid_t child) {
  int status = 0;
  ::waitpid(child, &status, 0);
  return status;
}

void write_raw(const std::string& path, std::string_view text) {
  std::ofstream(path, std::ios::app | std::ios::binary) << text;
}

std::string message_of(const std::string& path, bool create) {
  const Result<TraceFile> file = TraceFile::open(path, create);
  return file.ok() ? "" : file.status().message();
}

TEST(TraceFile, BeginsAnArrayAndAppends) {
  const TemporaryPath path;
  write_raw(path.string(), "[\n{\"an\":\"earlier one\"},\n{\"cut");
  TraceFile first = open_file(path.string(), true);
  TraceFile second = open_file(path.string(), false);
  ASSERT_TRUE(second.append("{\"a\":1},\n").ok());
  ASSERT_TRUE(first.append("{\"a\":2},\n{\"a\":3},\n").ok());
  EXPECT_EQ(read_text(path.string()), "[\n{\"a\":1},\n{\"a\":2},\n{\"a\":3},\n");
}

TEST(TraceFile, LeavesOtherFilesAsTheyAre) {
  const TemporaryPath path;
  write_raw(path.string(), "first line\nlast line, without an end");
  EXPECT_EQ(message_of(path.string(), true),
            fmt::format("cannot write the timeline '{}': the file is there already, and is no timeline: "
                        "remove it, or choose another name",
                        path.string()));
  EXPECT_EQ(read_text(path.string()), "first line\nlast line, without an end");
}

TEST(TraceFile, SaysWhyAPathIsBad) {
  EXPECT_EQ(message_of("/nowhere/t.json", true),
            "cannot create the timeline '/nowhere/t.json': No such file or directory");
  const std::string folder = std::filesystem::temp_directory_path().string();
  EXPECT_EQ(message_of(folder, true),
            fmt::format("cannot create the timeline '{}': Is a directory", folder));
  const TemporaryPath missing;
  EXPECT_EQ(
      message_of(missing.string(), false),
      fmt::format("cannot open the timeline '{}': No such file or directory", missing.string()));
  EXPECT_FALSE(std::filesystem::exists(missing.string()));
  EXPECT_EQ(message_of("/dev/null", true),
            "cannot write the timeline '/dev/null': not a regular file");
  const TemporaryPath pipe;
  ASSERT_EQ(::mkfifo(pipe.string().c_str(), 0600), 0);
  EXPECT_EQ(message_of(pipe.string(), true),
            fmt::format("cannot write the timeline '{}': not a regular file", pipe.string()));
}

TEST(TraceFile, KeepsLinesOffBordersOfPages) {
  const TemporaryPath path;
  TraceFile file = open_file(path.string(), true);
  for (int i = 0; i < 50; ++i) ASSERT_TRUE(file.append(some_lines(0, i * 20, 20)).ok());
  EXPECT_EQ(read_events(path.string()).size(), 1000U);
  const std::string text = read_text(path.string());
  for (std::size_t border = 4096; border < text.size(); border += 4096) {
    EXPECT_TRUE(text[border - 1] == '\n' || text[border - 1] == ' ') << border;
  }
}

TEST(TraceFile, KeepsLinesOfSeveralProcessesWhole) {
  constexpr int kWriters = 4;
  constexpr int kLines = 6000;
  const TemporaryPath path;
  const TraceFile creator = open_file(path.string(), true);
  std::vector<pid_t> children;
  for (int writer = 0; writer < kWriters; ++writer) {
    children.push_back(in_child([&] {
      TraceFile file = open_file(path.string(), false);
      for (int i = 0; i < kLines; i += 40) EXPECT_TRUE(file.append(some_lines(writer, i, 40)).ok());
    }));
  }
  for (const pid_t child : children) EXPECT_EQ(wait_for(child), 0);

  std::map<int, int> next;
  for (const Json& event : read_events(path.string())) {
    EXPECT_EQ(event["number"], next[event["writer"]]++);
  }
  for (int writer = 0; writer < kWriters; ++writer) EXPECT_EQ(next[writer], kLines);
}

TEST(TraceFile, StaysWholeWhenWritersAreKilled) {
  std::mt19937 random(1);
  for (int round = 0; round < 40; ++round) {
    const TemporaryPath path;
    { const TraceFile creator = open_file(path.string(), true); }
    // Nobody is left to repair anything: both are killed while they write, most of the time.
    std::array<pid_t, 2> children{};
    for (pid_t& child : children) {
      child = in_child([&] {
        TraceFile file = open_file(path.string(), false);
        const std::string lines = some_lines(1, 0, 5000);
        // So few that neither waits for the other long enough to go on without a lock.
        for (int i = 0; i < 10; ++i) EXPECT_TRUE(file.append(lines).ok());
        ::pause();
      });
    }
    std::this_thread::sleep_for(std::chrono::microseconds(2000 + random() % 8000));
    for (const pid_t child : children) ::kill(child, SIGKILL);
    for (const pid_t child : children) EXPECT_EQ(wait_for(child), SIGKILL);
    std::string text = read_text(path.string());
    text.erase(text.find_last_not_of(' ') + 1);
    EXPECT_TRUE(text.ends_with("\n")) << text.substr(text.rfind('\n'));
  }
}

TEST(TraceFile, RemovesALineThatWasCut) {
  const TemporaryPath path;
  TraceFile file = open_file(path.string(), true);
  ASSERT_TRUE(file.append(some_lines(0, 0, 2)).ok());
  // Longer than a page, so that it could not be kept whole.
  write_raw(path.string(), "{\"writer\":1,\"number\":0,\"tensors\":\"" + std::string(10'000, 'x'));
  ASSERT_TRUE(file.append(some_lines(0, 2, 1)).ok());
  EXPECT_EQ(read_events(path.string()).size(), 3U);
  write_raw(path.string(), "{");
  ASSERT_TRUE(file.append("").ok());
  EXPECT_EQ(read_events(path.string()).size(), 3U);
}

TEST(TraceFile, TakesLinesLongerThanAPage) {
  const TemporaryPath path;
  TraceFile file = open_file(path.string(), true);
  const std::string line = "{\"tensors\":\"" + std::string(100'000, 'x') + "\"},\n";
  ASSERT_TRUE(file.append(line + some_lines(0, 0, 1) + line).ok());
  EXPECT_EQ(read_events(path.string()).size(), 3U);
}

TEST(TraceFile, EndsWithAWholeLineWhenTheDiskIsFull) {
  const TemporaryPath path;
  const pid_t child = in_child([&] {
    // As a full disk does, the limit lets a part of a write through.
    ::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{10'000, 10'000};
    ::setrlimit(RLIMIT_FSIZE, &limit);
    TraceFile file = open_file(path.string(), true);
    const Status status = file.append(some_lines(0, 0, 100));
    ASSERT_FALSE(status.ok());
    EXPECT_EQ(status.message(),
              fmt::format("cannot write the timeline '{}': File too large", path.string()));
  });
  EXPECT_EQ(wait_for(child), 0);
  const std::size_t count = read_events(path.string()).size();
  EXPECT_GT(count, 20U);
  EXPECT_LT(count, 100U);
}

TEST(TraceFile, DoesNotWaitForAWriterThatWasStopped) {
  const TemporaryPath path;
  TraceFile file = open_file(path.string(), true);
  const int other = ::open(path.string().c_str(), O_RDWR);
  ASSERT_EQ(::flock(other, LOCK_EX), 0);
  EXPECT_TRUE(file.append(some_lines(0, 0, 3)).ok());
  ::close(other);
  EXPECT_EQ(read_events(path.string()).size(), 3U);
}

}  // namespace
}  // namespace kolo::core
