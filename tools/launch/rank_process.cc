#include "launch/rank_process.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <optional>
#include <system_error>
#include <thread>

#include "launch/file_descriptor.h"
#include "launch/frames.h"
#include "launch/job_folder.h"

namespace kolo::launch {
namespace {

constexpr int kCannotStart = 127;  // as shells exit
constexpr std::size_t kMostLeftBehind = 1 << 20;

/// Where the program writes, and where that is read.
struct Channel {
  FrameKind kind;
  FileDescriptor read;
  FileDescriptor write;
};

Channel make_pipe(FrameKind kind) {
  std::array<int, 2> ends{};
  if (pipe2(ends.data(), O_CLOEXEC) != 0) {
    throw std::system_error(errno, std::generic_category(), "a pipe");
  }
  return {kind, FileDescriptor(ends[0]), FileDescriptor(ends[1])};
}

/// A terminal, as mpirun itself would give a rank, so that programs write each line when it is
/// complete; a pipe where there are no terminals.
Channel make_terminal(FrameKind kind) {
  FileDescriptor master(posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC));
  std::array<char, 128> name{};
  if (master.get() < 0 || grantpt(master.get()) != 0 || unlockpt(master.get()) != 0 ||
      ptsname_r(master.get(), name.data(), name.size()) != 0) {
    return make_pipe(kind);
  }
  FileDescriptor slave(open(name.data(), O_RDWR | O_NOCTTY | O_CLOEXEC));
  termios settings{};
  if (slave.get() < 0 || tcgetattr(slave.get(), &settings) != 0) return make_pipe(kind);
  cfmakeraw(&settings);
  tcsetattr(slave.get(), TCSANOW, &settings);
  return {kind, std::move(master), std::move(slave)};
}

std::string host_name() {
  std::array<char, 256> name{};
  return gethostname(name.data(), name.size() - 1) == 0 ? name.data() : "unknown";
}

int rank_from_environment() {
  for (const auto* name : {"OMPI_COMM_WORLD_RANK", "PMIX_RANK"}) {
    if (const char* text = getenv(name)) return std::atoi(text);
  }
  return 0;
}

class RankProcess {
 public:
  RankProcess()
      : rank_(rank_from_environment()),
        to_kolorun_(fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 0)),
        output_(make_terminal(FrameKind::Output)),
        error_(make_pipe(FrameKind::Error)) {
    setpgid(0, 0);  // mpirun has done so, or this group would be one of others
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, &old_mask_);
    sigset_t handled;
    sigemptyset(&handled);
    for (const int number : {SIGCHLD, kForwardedSigterm, kForwardedSigint}) {
      sigaddset(&handled, number);
    }
    signals_ = FileDescriptor(signalfd(-1, &handled, SFD_CLOEXEC));
  }

  /// Returns the wait status.
  int run(const std::vector<std::string>& command) {
    start(command);
    while (!status_) wait_for_something();
    drain(output_);
    drain(error_);
    send(FrameKind::Ended, std::to_string(*status_));
    return *status_;
  }

 private:
  void start(const std::vector<std::string>& command) {
    send(FrameKind::Started, host_name());
    child_ = fork();
    if (child_ == 0) become(command);
    if (child_ < 0) {
      send(FrameKind::Error, fmt::format("kolorun: cannot start a process: {}\n",
                                         std::generic_category().message(errno)));
      status_ = kCannotStart << 8;
    }
    output_.write.reset();
    error_.write.reset();
  }

  [[noreturn]] void become(const std::vector<std::string>& command) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent_) _exit(128 + SIGKILL);  // it died before the line above
    dup2(output_.write.get(), STDOUT_FILENO);
    dup2(error_.write.get(), STDERR_FILENO);
    for (const int number : {kForwardedSigterm, kForwardedSigint}) signal(number, SIG_IGN);
    // It is mpirun's; the library refuses it beside what mpirun has made of it.
    unsetenv("OMPI_MCA_orte_local_tmpdir_base");
    sigprocmask(SIG_SETMASK, &old_mask_, nullptr);
    auto words = command;
    std::vector<char*> argv;
    for (auto& word : words) argv.push_back(word.data());
    argv.push_back(nullptr);
    execvp(argv[0], argv.data());
    fmt::print(stderr, "kolorun: '{}' cannot be started on {}: {}\n", words[0], host_name(),
               std::generic_category().message(errno));
    std::fflush(stderr);
    _exit(kCannotStart);
  }

  /// The program's words are read only when the pipe to mpirun has room for a piece, so that no
  /// write blocks.
  void wait_for_something() {
    pollfd signals{signals_.get(), POLLIN, 0};
    pollfd room{to_kolorun_.get(), POLLOUT, 0};
    std::array<pollfd, 4> all{{signals,
                               {to_kolorun_.get(), 0, 0},
                               {output_.read.get(), POLLIN, 0},
                               {error_.read.get(), POLLIN, 0}}};
    if (poll(all.data(), all.size(), -1) < 0) return;
    if (all[1].revents != 0) end_group();
    if (all[0].revents != 0) return handle_signal();
    std::array<pollfd, 2> either{signals, room};
    poll(either.data(), either.size(), -1);
    if (either[1].revents != POLLOUT) return;
    pass_on(all[2].revents != 0 ? output_ : error_);
  }

  void handle_signal() {
    signalfd_siginfo info{};
    if (read(signals_.get(), &info, sizeof(info)) != sizeof(info)) return;
    const auto number = static_cast<int>(info.ssi_signo);
    if (number == kForwardedSigterm) kill(0, SIGTERM);
    if (number == kForwardedSigint) kill(0, SIGINT);
    int status = 0;
    for (pid_t ended = 0; (ended = waitpid(-1, &status, WNOHANG)) > 0;) {
      if (ended == child_) status_ = status;
    }
  }

  /// Returns how much it was; at the end of what is read that is closed.
  std::size_t pass_on(Channel& from) {
    std::array<char, kTextBytes> text{};
    const auto size = read(from.read.get(), text.data(), text.size());
    if (size <= 0) {
      if (size == 0 || (errno != EINTR && errno != EAGAIN)) from.read.reset();
      return 0;
    }
    send(from.kind, {text.data(), static_cast<std::size_t>(size)});
    return static_cast<std::size_t>(size);
  }

  /// What the program has left there. Others may still write, so that it need not end.
  void drain(Channel& from) {
    for (std::size_t size = 0; from.read.get() >= 0 && size < kMostLeftBehind;) {
      pollfd entry{from.read.get(), POLLIN, 0};
      if (poll(&entry, 1, 0) <= 0) return;
      size += pass_on(from);
    }
  }

  void send(FrameKind kind, std::string_view text) {
    const auto frames = encode(kind, rank_, text);
    for (std::size_t at = 0; at < frames.size();) {
      const auto written =
          write(to_kolorun_.get(), frames.data() + at, std::min(frames.size() - at, kFrameBytes));
      if (written > 0) {
        at += static_cast<std::size_t>(written);
      } else if (errno == EAGAIN) {
        pollfd entry{to_kolorun_.get(), POLLOUT, 0};
        poll(&entry, 1, -1);
      } else if (errno != EINTR) {
        return;  // mpirun has gone, which the loop sees
      }
    }
  }

  /// Nobody is left who could end the program.
  [[noreturn]] void end_group() {
    kill(0, SIGTERM);
    std::this_thread::sleep_for(std::chrono::seconds(2));
    kill(0, SIGKILL);
    _exit(128 + SIGKILL);
  }

  int rank_;
  pid_t parent_ = getpid();  ///< of the program
  FileDescriptor to_kolorun_;
  Channel output_;
  Channel error_;
  FileDescriptor signals_;
  sigset_t old_mask_{};
  pid_t child_ = -1;
  std::optional<int> status_;
};

/// Ends as the program did, so that mpirun sees what it would have seen of that.
int end_alike(int status) {
  if (!WIFSIGNALED(status)) return WEXITSTATUS(status);
  const rlimit none{0, 0};
  setrlimit(RLIMIT_CORE, &none);  // the program has left one
  const int number = WTERMSIG(status);
  signal(number, SIG_DFL);
  raise(number);
  sigset_t one;
  sigemptyset(&one);
  sigaddset(&one, number);
  sigprocmask(SIG_UNBLOCK, &one, nullptr);
  return 128 + number;
}

}  // namespace

int run_rank(const std::string& folder, const std::vector<std::string>& command) {
  int status = 0;
  {
    const auto own = JobFolder::join(folder);
    status = RankProcess().run(command);
  }
  return end_alike(status);
}

}  // namespace kolo::launch
