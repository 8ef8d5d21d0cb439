/// What the program writes: files, history, progress.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include "checksum.h"
#include "files.h"
#include "history.h"
#include "progress.h"
#include "temp_folder.h"

namespace resnet_example {
namespace {

using testing::expect_error;
using testing::read_text;
using testing::TempFolder;
using testing::write_text;

EpochRecord record(int epoch) {
  return {
      .epoch = epoch,
      .ranks = 2,
      .lr = 0.1,
      .train_loss = 1.0 / 3,
      .train_accuracy = 0.5,
      .test_loss = 2,
      .test_accuracy = 0.25,
      .seconds = 10,
      .images_per_second = 100,
      .phases = {.data = 0.1, .forward = 3, .backward = 6, .communication = 0.5, .optimizer = 0.4}};
}

TEST(WriteFileAtomically, MakesFoldersAndReplaces) {
  const TempFolder folder;
  const auto path = folder / "a/b/file";
  write_file_atomically(path, "first");
  write_file_atomically(path, std::string("second\0part", 11));
  EXPECT_EQ(read_file(path), std::string("second\0part", 11));
  EXPECT_FALSE(std::filesystem::exists(folder / "a/b/file.tmp"));
}

TEST(WriteFileAtomically, LeavesTheOldFileWhenItFails) {
  const TempFolder folder;
  write_file_atomically(folder / "file", "old");
  std::filesystem::create_directory(folder / "file.tmp");
  expect_error([&] { write_file_atomically(folder / "file", "new"); }, "file.tmp", "cannot create");
  EXPECT_EQ(read_file(folder / "file"), "old");
  expect_error([&] { write_file_atomically(folder / "file/below", "new"); },
               (folder / "file").string());
}

TEST(WriteFileAtomically, ReplacesNothingButFiles) {
  const TempFolder folder;
  std::filesystem::create_directory(folder / "folder");
  ASSERT_EQ(::mkfifo((folder / "pipe").c_str(), 0600), 0);
  for (const char* name : {"folder", "pipe"}) {
    expect_error([&] { write_file_atomically(folder / name, "new"); }, name, "no regular file");
    EXPECT_FALSE(std::filesystem::exists(folder / (std::string(name) + ".tmp")));
  }
  EXPECT_TRUE(std::filesystem::is_fifo(folder / "pipe"));
}

TEST(WriteFileAtomically, WritesWhereALinkLeads) {
  const TempFolder folder;
  std::filesystem::create_directory(folder / "there");
  write_text(folder / "there/old", "old");
  std::filesystem::create_symlink("there/old", folder / "link");
  std::filesystem::create_symlink(folder / "there/new", folder / "to nothing yet");
  write_file_atomically(folder / "link", "1");
  write_file_atomically(folder / "to nothing yet", "2");
  EXPECT_EQ(read_text(folder / "there/old"), "1");
  EXPECT_EQ(read_text(folder / "there/new"), "2");
  EXPECT_TRUE(std::filesystem::is_symlink(folder / "link"));
  EXPECT_TRUE(std::filesystem::is_symlink(folder / "to nothing yet"));
}

TEST(WriteFileAtomically, FollowsNoLinkAtItsTemporaryName) {
  const TempFolder folder;
  write_text(folder / "precious", "precious");
  std::filesystem::create_symlink("precious", folder / "file.tmp");
  write_file_atomically(folder / "file", "new");
  EXPECT_EQ(read_text(folder / "precious"), "precious");
  EXPECT_EQ(read_text(folder / "file"), "new");
  EXPECT_FALSE(std::filesystem::is_symlink(folder / "file"));
}

TEST(WritableFolder, IsMadeAndLeftEmpty) {
  const TempFolder folder;
  require_writable_folder(folder / "a/b");
  EXPECT_TRUE(std::filesystem::is_empty(folder / "a/b"));
  write_text(folder / "file", "");
  expect_error([&] { require_writable_folder(folder / "file"); }, (folder / "file").string());
}

TEST(Seal, TellsEveryBitThatIsNotAsItWas) {
  const std::string bytes = sealed("some contents");
  EXPECT_EQ(unsealed(bytes), "some contents");
  for (std::size_t bit = 0; bit < 8 * bytes.size(); ++bit) {
    std::string damaged = bytes;
    damaged[bit / 8] = static_cast<char>(damaged[bit / 8] ^ (1 << bit % 8));
    EXPECT_FALSE(unsealed(damaged)) << bit;
  }
  for (std::size_t size = 0; size < bytes.size(); ++size)
    EXPECT_FALSE(unsealed(bytes.substr(0, size)));
  EXPECT_EQ(unsealed(sealed("")), "");
}

TEST(ReadFile, NamesWhatItCannotRead) {
  const TempFolder folder;
  expect_error([&] { read_file(folder / "none"); }, (folder / "none").string(), "No such file");
  expect_error([&] { read_file(folder.path()); }, folder.path().string(), "no regular file");
  ASSERT_EQ(::mkfifo((folder / "pipe").c_str(), 0600), 0);
  expect_error([&] { read_file(folder / "pipe"); }, "pipe", "no regular file");
}

TEST(History, WritesAHeaderAndLinesAtOnce) {
  const TempFolder folder;
  History history(folder / "h.csv", 0);
  EXPECT_EQ(read_text(folder / "h.csv").rfind("epoch,ranks,lr,train_loss,", 0), 0U);
  history.append(record(1));
  EXPECT_NE(read_text(folder / "h.csv").find("\n1,2,0.1,0.3333333333333333,0.5,2,0.25,10.0"),
            std::string::npos);
}

TEST(History, StartsAnewOrGoesOn) {
  const TempFolder folder;
  const auto path = folder / "h.csv";
  {
    History history(path, 0);
    for (int epoch = 1; epoch <= 3; ++epoch) history.append(record(epoch));
  }
  const std::string three = read_text(path);
  {
    History history(path, 2);  // the run was broken off between the line and the checkpoint
    EXPECT_EQ(read_text(path), three.substr(0, three.rfind('\n', three.size() - 2) + 1));
    history.append(record(3));
    EXPECT_EQ(read_text(path), three);
  }
  { const History history(path, 0); }
  EXPECT_EQ(read_text(path), three.substr(0, three.find('\n') + 1));
}

TEST(History, GoingOnNeedsItsOwnFile) {
  const TempFolder folder;
  write_text(folder / "h.csv", "something else\n");
  expect_error([&] { History(folder / "h.csv", 1); }, "h.csv", "expected 'epoch,",
               "something else");
  EXPECT_EQ(read_text(folder / "h.csv"), "something else\n");
}

/// A pipe, and a file that a process has open: what was written there stays.
TEST(History, IsWrittenThroughWhatIsNoFile) {
  const TempFolder folder;
  const auto pipe = folder / "pipe";
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  expect_error([&] { History(pipe, 0); }, pipe.string());
  const int reader = ::open(pipe.c_str(), O_RDONLY | O_NONBLOCK);
  History(pipe, 0).append(record(1));
  std::string text(10000, ' ');
  text.resize(
      static_cast<std::size_t>(std::max<ssize_t>(0, ::read(reader, text.data(), text.size()))));
  ::close(reader);
  EXPECT_EQ(text.rfind("epoch,ranks,", 0), 0U);
  EXPECT_NE(text.find("\n1,2,0.1,"), std::string::npos);
  EXPECT_TRUE(std::filesystem::is_fifo(pipe));

  write_text(folder / "log", "a line\n");
  const int log = ::open((folder / "log").c_str(), O_WRONLY | O_APPEND);
  const std::string name = "/proc/self/fd/" + std::to_string(log);
  std::filesystem::create_symlink(name, folder / "stdout");
  History(folder / "stdout", 1).append(record(2));
  EXPECT_EQ(::write(log, "end\n", 4), 4);
  ::close(log);
  text = read_text(folder / "log");
  EXPECT_EQ(text.rfind("a line\nepoch,ranks,", 0), 0U);
  EXPECT_NE(text.find("\n2,2,0.1,"), std::string::npos);
  EXPECT_EQ(text.rfind("\nend\n"), text.size() - 5);
  expect_error([&] { History(folder.path(), 0); }, folder.path().string());
}

TEST(History, WithoutAFileDoesNothing) {
  History history("", 0);
  history.append(record(1));
}

TEST(Render, Durations) {
  EXPECT_EQ(render_duration(0.2), "0 s");
  EXPECT_EQ(render_duration(59.4), "59 s");
  EXPECT_EQ(render_duration(185), "3:05 min");
  EXPECT_EQ(render_duration(3723), "1:02:03 h");
}

TEST(Render, Counts) {
  EXPECT_EQ(render_count(7), "7");
  EXPECT_EQ(render_count(999), "999");
  EXPECT_EQ(render_count(1000), "1,000");
  EXPECT_EQ(render_count(11173962), "11,173,962");
  EXPECT_EQ(render_count(1, "rank"), "1 rank");
  EXPECT_EQ(render_count(2, "rank"), "2 ranks");
}

TEST(Render, BarsAreOneLineOfAnyWidth) {
  const StepStatus status{.title = "epoch 2/5",
                          .step = 30,
                          .steps = 120,
                          .loss = 1.25,
                          .accuracy = 0.5,
                          .images_per_second = 1234,
                          .seconds_left = 185};
  for (const int columns : {1, 20, 60, 80, 100, 300}) {
    const std::string bar = render_bar(status, columns);
    EXPECT_LT(bar.size(), static_cast<std::size_t>(columns));
    EXPECT_EQ(bar.find('\n'), std::string::npos);
  }
  const std::string bar = render_bar(status, 120);
  EXPECT_EQ(bar.size(), 119U);
  EXPECT_EQ(bar.rfind("epoch 2/5 [", 0), 0U);
  EXPECT_NE(bar.find("  25 %  loss 1.2500  accuracy 50.0 %  1234 images/s  3:05 min left"),
            std::string::npos);
  const auto full = std::count(bar.begin(), bar.end(), '#');
  const auto open = std::count(bar.begin(), bar.begin() + static_cast<long>(bar.find(']')), '.');
  EXPECT_NEAR(static_cast<double>(full) / static_cast<double>(full + open), 0.25, 0.03);
  EXPECT_EQ(
      render_line(status),
      "epoch 2/5  step 30/120  loss 1.2500  accuracy 50.00 %  1234.0 images/s  3:05 min left");
}

TEST(Render, SummaryTellsBestAndWhereTheTimeWent) {
  EpochRecord best = record(1);
  best.test_accuracy = 0.75;
  const std::string text = render_summary("CIFAR-10", 128, {best, record(2)});
  EXPECT_NE(text.find("CIFAR-10, 2 ranks with batches of 128"), std::string::npos) << text;
  EXPECT_NE(text.find("25.00 % (best 75.00 %, epoch 1)"), std::string::npos) << text;
  EXPECT_NE(text.find("20 s, 100.0 images/s"), std::string::npos) << text;
  EXPECT_NE(text.find("60.0 %"), std::string::npos) << text;
}

}  // namespace
}  // namespace resnet_example
