#include "launch/process.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <system_error>
#include <vector>

#include "launch/file_descriptor.h"
#include "launch/own_streams.h"
#include "launch/supervisor.h"
#include "launch/usage_error.h"

namespace kolo::launch {
namespace {

[[noreturn]] void become(const MpirunCommand& command, pid_t parent, const sigset_t& old_mask) {
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  if (getppid() != parent) _exit(128 + SIGTERM);  // it died before the line above
  setpgid(0, 0);
  sigprocmask(SIG_SETMASK, &old_mask, nullptr);
  for (const auto& [name, value] : command.environment) setenv(name.c_str(), value.c_str(), 1);
  auto words = command.arguments;
  words.insert(words.end(), command.program.begin(), command.program.end());
  std::vector<char*> argv;
  for (auto& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  execvp(argv[0], argv.data());
  fmt::print(stderr, "kolorun: '{}' cannot be started: {}\n", words[0],
             std::generic_category().message(errno));
  std::fflush(stderr);
  _exit(2);
}

struct Pipe {
  FileDescriptor read;
  FileDescriptor write;
};

Pipe make_pipe() {
  std::array<int, 2> ends{};
  if (pipe2(ends.data(), O_CLOEXEC) != 0) {
    throw UsageError(
        fmt::format("no pipe can be made: {}", std::generic_category().message(errno)));
  }
  fcntl(ends[0], F_SETFL, O_NONBLOCK);
  return {FileDescriptor(ends[0]), FileDescriptor(ends[1])};
}

}  // namespace

int run_to_end(const Job& job) {
  prctl(PR_SET_CHILD_SUBREAPER, 1);
  signal(SIGCHLD, SIG_DFL);  // whoever started this may have ignored it, and waitpid would fail
  const auto signals = handled_signals();
  sigset_t old_mask;
  sigprocmask(SIG_BLOCK, &signals, &old_mask);
  TypedInput typed;
  Output output(job.ranks, job.tag_output, job.output_dir);
  auto from_output = make_pipe();
  auto from_error = make_pipe();
  const pid_t parent = getpid();
  const pid_t child = fork();
  if (child < 0) {
    throw UsageError(
        fmt::format("no process can be started: {}", std::generic_category().message(errno)));
  }
  if (child == 0) {
    if (typed.for_mpirun() >= 0) dup2(typed.for_mpirun(), STDIN_FILENO);
    dup2(from_output.write.get(), STDOUT_FILENO);
    dup2(from_error.write.get(), STDERR_FILENO);
    become(job.command, parent, old_mask);
  }
  from_output.write.reset();
  from_error.write.reset();
  typed.mpirun_started();
  return Supervisor(job, child, std::move(from_output.read), std::move(from_error.read),
                    std::move(output), std::move(typed))
      .wait();
}

}  // namespace kolo::launch
