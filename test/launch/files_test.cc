#include "launch/files.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "expect_usage_error.h"

namespace kolo::launch {
namespace {

namespace fs = std::filesystem;

class Files : public testing::Test {
 protected:
  Files() {
    std::string name = testing::TempDir() + "kolo_launch_XXXXXX";
    folder_ = mkdtemp(name.data());
  }
  ~Files() override { fs::remove_all(folder_); }

  std::string write(const std::string& name, const std::string& text, bool executable = false) {
    const auto path = folder_ / name;
    std::ofstream(path) << text;
    if (executable) fs::permissions(path, fs::perms::owner_all);
    return path.string();
  }

  fs::path folder_;
};

TEST_F(Files, ReadsAWholeFile) {
  EXPECT_EQ(read_file(write("a", "x\ny"), "hostfile"), "x\ny");
  EXPECT_EQ(read_file(write("empty", ""), "hostfile"), "");
}

TEST_F(Files, SaysWhyAFileCannotBeRead) {
  expect_usage_error([&] { read_file((folder_ / "none").string(), "hostfile"); },
                     {"hostfile '", "none' cannot be read: No such file or directory"});
  expect_usage_error([&] { read_file(folder_.string(), "config file"); },
                     {"config file '", "cannot be read: Is a directory"});
}

TEST_F(Files, FindsProgramsAsExecvpDoes) {
  const auto program = write("run", "#!/bin/sh\n", true);
  const auto text = write("text", "no program");
  const auto search_path = "/nowhere:" + folder_.string();
  EXPECT_EQ(find_program(program, ""), ProgramState::Ready);
  EXPECT_EQ(find_program("run", search_path), ProgramState::Ready);
  EXPECT_EQ(find_program("run", "/nowhere"), ProgramState::Missing);
  EXPECT_EQ(find_program("./run", search_path), ProgramState::Missing);
  EXPECT_EQ(find_program(text, ""), ProgramState::NotExecutable);
  EXPECT_EQ(find_program("text", search_path), ProgramState::NotExecutable);
  EXPECT_EQ(find_program(folder_.string(), ""), ProgramState::NotExecutable);
}

TEST_F(Files, AProgramFurtherDownThePathIsFoundBehindAnUnusableOne) {
  fs::create_directory(folder_ / "first");
  write("first/run", "no program");
  write("run", "#!/bin/sh\n", true);
  EXPECT_EQ(find_program("run", (folder_ / "first").string() + ":" + folder_.string()),
            ProgramState::Ready);
}

TEST_F(Files, ChecksWhereToWrite) {
  EXPECT_NO_THROW(check_writable((folder_ / "t.json").string(), "--timeline-filename"));
  EXPECT_NO_THROW(check_writable(write("old.json", "[]"), "--timeline-filename"));
  EXPECT_FALSE(fs::exists(folder_ / "t.json"));
  expect_usage_error(
      [&] { check_writable((folder_ / "no" / "t.json").string(), "--timeline-filename"); },
      {"--timeline-filename: the folder '", "/no' does not exist", "mkdir -p"});
  expect_usage_error([&] { check_writable(folder_.string(), "--timeline-filename"); },
                     {"is a folder; name a file in it"});
  expect_usage_error([&] { check_writable(folder_.string() + "/", "--timeline-filename"); },
                     {"is a folder; name a file in it"});
}

TEST_F(Files, RefusesAFolderThatIsReadOnly) {
  if (geteuid() == 0) GTEST_SKIP() << "root may write everywhere";
  fs::permissions(folder_, fs::perms::owner_read | fs::perms::owner_exec);
  expect_usage_error([&] { check_writable((folder_ / "t.json").string(), "--timeline-filename"); },
                     {"is not writable; choose another place"});
}

}  // namespace
}  // namespace kolo::launch
