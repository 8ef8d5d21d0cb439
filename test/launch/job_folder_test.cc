#include "launch/job_folder.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <optional>

namespace kolo::launch {
namespace {

namespace fs = std::filesystem;

TEST(JobFolder, TheLastOneToLeaveRemovesIt) {
  std::optional<JobFolder> first(JobFolder::create());
  const auto path = first->path();
  std::ofstream(path + "/file") << "x";
  std::optional<JobFolder> second(JobFolder::join(path));
  first.reset();
  EXPECT_TRUE(fs::exists(path + "/file"));
  second.reset();
  EXPECT_FALSE(fs::exists(path));
}

TEST(JobFolder, WhereTheFirstIsOnAnotherHostItIsMade) {
  const auto path = JobFolder::create().path();
  EXPECT_FALSE(fs::exists(path));
  {
    const auto joined = JobFolder::join(path);
    EXPECT_TRUE(fs::is_directory(path));
  }
  EXPECT_FALSE(fs::exists(path));
}

TEST(JobFolder, WhatAKilledProcessLeavesGoesWithTheNextOne) {
  int path_pipe[2];
  ASSERT_EQ(pipe(path_pipe), 0);
  const pid_t child = fork();
  if (child == 0) {
    const auto folder = JobFolder::create();
    (void)!write(path_pipe[1], folder.path().data(), folder.path().size());
    _exit(0);  // without its destructor
  }
  waitpid(child, nullptr, 0);
  std::string path(256, '\0');
  path.resize(static_cast<std::size_t>(read(path_pipe[0], path.data(), path.size())));
  EXPECT_TRUE(fs::is_directory(path));
  const auto living = JobFolder::create();
  const auto next = JobFolder::create();
  EXPECT_FALSE(fs::exists(path));
  EXPECT_TRUE(fs::is_directory(living.path()));
}

}  // namespace
}  // namespace kolo::launch
