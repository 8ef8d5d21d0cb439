#include "launch/supervisor.h"

#include <fmt/format.h>
#include <poll.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>

#include "launch/children.h"
#include "launch/rank_process.h"

namespace kolo::launch {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr int kCannotStart = 2;
constexpr int kSignalExit = 128;
constexpr milliseconds kPromptWait{50};
constexpr seconds kHold{1};
constexpr seconds kLookEvery{2};
constexpr seconds kAloneLimit{5};
constexpr seconds kEndLimit{10};
constexpr seconds kSameSender{1};  ///< `timeout` sends its signal to kolorun, then to its group
constexpr std::size_t kMostUnprinted = 1 << 16;

bool stops(int number) { return number == SIGINT || number == SIGTERM || number == SIGHUP; }

std::string name_of(int number) { return fmt::format("SIG{}", sigabbrev_np(number)); }

}  // namespace

sigset_t handled_signals() {
  sigset_t signals;
  sigemptyset(&signals);
  for (const int number : {SIGCHLD, SIGINT, SIGTERM, SIGUSR1, SIGUSR2, SIGPIPE}) {
    sigaddset(&signals, number);
  }
  struct sigaction action {};
  sigaction(SIGHUP, nullptr, &action);
  if (action.sa_handler != SIG_IGN) sigaddset(&signals, SIGHUP);
  return signals;
}

Supervisor::Supervisor(const Job& job, pid_t mpirun, FileDescriptor output, FileDescriptor error,
                       Output lines, TypedInput typed)
    : job_(job),
      mpirun_(mpirun),
      from_output_(std::move(output)),
      from_error_(std::move(error)),
      lines_(std::move(lines)),
      typed_(std::move(typed)),
      ranks_(job.ranks) {
  const auto signals = handled_signals();
  signals_ = FileDescriptor(signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK));
}

int Supervisor::wait() {
  while (!mpirun_status_) wait_for_something();
  end_leftovers(at_once_);
  read_mpirun(from_output_, &Supervisor::take_output);
  read_mpirun(from_error_, &Supervisor::take_error);
  held_ += frames_.rest();
  lines_.finish(printed_);
  report_end();
  from_output_.reset();
  from_error_.reset();
  while (!gives_up_ && !(printed_.output.empty() && printed_.error.empty())) wait_for_something();
  return exit_code();
}

void Supervisor::wait_for_something() {
  const bool room = printed_.output.size() + printed_.error.size() < kMostUnprinted;
  std::array<pollfd, 6> wanted{{{signals_.get(), POLLIN, 0},
                                {room ? from_output_.get() : -1, POLLIN, 0},
                                {room ? from_error_.get() : -1, POLLIN, 0},
                                {printed_.output.empty() ? -1 : STDOUT_FILENO, POLLOUT, 0},
                                {printed_.error.empty() ? -1 : STDERR_FILENO, POLLOUT, 0},
                                typed_.wanted()}};
  const auto patience = prompt_since_ || !held_.empty() ? kPromptWait : milliseconds(1000);
  if (poll(wanted.data(), wanted.size(), static_cast<int>(patience.count())) < 0) return;
  now_ = Clock::now();
  if (wanted[0].revents != 0) read_signal();
  if (wanted[1].revents != 0) read_mpirun(from_output_, &Supervisor::take_output);
  if (wanted[2].revents != 0) read_mpirun(from_error_, &Supervisor::take_error);
  if (wanted[3].revents != 0) print_own(Stream::Output);
  if (wanted[4].revents != 0) print_own(Stream::Error);
  if (wanted[5].revents != 0) typed_.serve();
  check_time();
}

void Supervisor::read_signal() {
  signalfd_siginfo info{};
  while (read(signals_.get(), &info, sizeof(info)) == sizeof(info)) {
    const auto number = static_cast<int>(info.ssi_signo);
    if (number == SIGCHLD) {
      reap();
    } else if (stops(number)) {
      handle_stop(info);
    } else if (number == SIGPIPE) {
      end_job(SIGPIPE);
    } else if (!mpirun_status_) {
      kill(mpirun_, number);
    }
  }
}

void Supervisor::handle_stop(const signalfd_siginfo& info) {
  const auto number = static_cast<int>(info.ssi_signo);
  if (mpirun_status_) {
    gives_up_ = true;
  } else if (stop_signal_ != 0) {
    // A terminal that goes, and its shell, may both send a SIGHUP.
    const bool same = info.ssi_code != SI_KERNEL && info.ssi_pid == stop_sender_ && stopped_ &&
                      now_ < *stopped_ + kSameSender;
    if (!same && number != SIGHUP) kill_mpirun();
  } else {
    stop_sender_ = info.ssi_pid;
    stopped_ = now_;
    stop_ranks(number);
  }
}

void Supervisor::stop_ranks(int number) {
  if (!ranks_.all_started() || job_.grace.count() == 0) return end_job(number);
  stop_signal_ = number;
  say(fmt::format("{}: the ranks have {} s to end; another signal ends them at once",
                  name_of(number), job_.grace.count()));
  kill(mpirun_, number == SIGINT ? kForwardedSigint : kForwardedSigterm);
}

void Supervisor::reap() {
  int status = 0;
  for (pid_t child = 0; (child = waitpid(-1, &status, WNOHANG)) > 0;) {
    if (child == mpirun_) mpirun_status_ = status;
  }
}

void Supervisor::read_mpirun(FileDescriptor& from, void (Supervisor::*take)(std::string_view)) {
  std::array<char, kMostUnprinted> text{};
  while (from.get() >= 0) {
    const auto size = read(from.get(), text.data(), text.size());
    if (size > 0) {
      (this->*take)({text.data(), static_cast<std::size_t>(size)});
      if (!mpirun_status_) return;
    } else {
      if (size == 0 || (errno != EINTR && errno != EAGAIN)) from.reset();
      return;
    }
  }
}

void Supervisor::take_output(std::string_view text) { printed_.output += text; }

void Supervisor::take_error(std::string_view text) {
  for (const auto& piece : frames_.read(text)) {
    if (const auto* frame = std::get_if<Frame>(&piece)) {
      take_frame(*frame);
    } else {
      if (held_.empty()) held_since_ = now_;
      held_ += std::get<std::string>(piece);
    }
  }
}

void Supervisor::take_frame(const Frame& frame) {
  if (frame.rank >= job_.ranks) return;
  switch (frame.kind) {
    case FrameKind::Started:
      return ranks_.started(frame.rank, frame.text);
    case FrameKind::Ended:
      return ranks_.ended(frame.rank, std::atoi(frame.text.c_str()));
    case FrameKind::Output:
    case FrameKind::Error:
      lines_.add(frame.rank, frame.kind == FrameKind::Output ? Stream::Output : Stream::Error,
                 frame.text, printed_);
  }
  if (lines_.has_prompts() && !prompt_since_) prompt_since_ = now_;
}

void Supervisor::print_own(Stream stream) {
  const int number = stream == Stream::Output ? STDOUT_FILENO : STDERR_FILENO;
  const auto result = write_some(number, printed_.of(stream));
  if (result == WriteResult::NobodyReads) end_job(SIGPIPE);
  if (result == WriteResult::TerminalGone) end_job(SIGHUP);
}

void Supervisor::check_time() {
  if (prompt_since_ && now_ >= *prompt_since_ + kPromptWait) {
    lines_.flush_prompts(printed_);
    prompt_since_.reset();
  }
  if (!held_.empty() && now_ >= held_since_ + kHold) release_held();
  if (mpirun_status_) return;
  if (stopped_ && !asked_ && now_ >= *stopped_ + job_.grace) {
    say(fmt::format("the ranks have not ended within {} s (--grace): they are ended",
                    job_.grace.count()));
    end_job(stop_signal_);
  }
  if (asked_ && now_ >= *asked_ + kEndLimit) kill_mpirun();
  check_start();
  check_leftover_mpirun();
}

void Supervisor::check_start() {
  if (asked_ || ranks_.all_started() || now_ < begin_ + job_.start_timeout) return;
  could_not_start_ = true;
  say(fmt::format("not all ranks run after {} s (--start-timeout): rank {} {} missing{}",
                  job_.start_timeout.count(), ranks_.missing(), job_.ranks > 1 ? "are" : "is",
                  job_.explain_missing()));
  end_job(0);
}

/// Open MPI's mpirun may hang when all its ranks have gone.
void Supervisor::check_leftover_mpirun() {
  if (!ranks_.any_started() || now_ < next_look_) return;
  next_look_ = now_ + kLookEvery;
  if (!ranks_.all_ended() && has_children(mpirun_)) {
    alone_since_.reset();
  } else if (!alone_since_) {
    alone_since_ = now_;
  } else if (now_ >= *alone_since_ + kAloneLimit) {
    say("all ranks have ended, but mpirun has not: it is killed");
    mpirun_was_stuck_ = true;
    kill_mpirun();
  }
}

void Supervisor::say(const std::string& text) {
  lines_.flush_prompts(printed_);
  printed_.error += fmt::format("kolorun: {}\n", text);
}

/// mpirun's words tell at length, and of one rank only, what kolorun says itself.
void Supervisor::release_held() {
  const bool said = ranks_.failure() || stop_signal_ != 0 || mpirun_was_stuck_;
  if (!said || job_.verbose) printed_.error += held_;
  held_.clear();
}

/// Lets mpirun end all ranks. `stop_signal`: what kolorun's exit code tells; 0: no signal was the
/// reason.
void Supervisor::end_job(int stop_signal) {
  if (stop_signal_ == 0) stop_signal_ = stop_signal;
  if (asked_ || mpirun_status_) return;
  asked_ = now_;
  kill(mpirun_, SIGTERM);
}

void Supervisor::kill_mpirun() {
  at_once_ = !mpirun_was_stuck_;
  if (!mpirun_status_) kill(mpirun_, SIGKILL);
}

void Supervisor::report_end() {
  release_held();
  if (mpirun_was_stuck_ || !WIFSIGNALED(*mpirun_status_) || ranks_.failure()) {
    // What is said of the ranks is enough.
  } else if (!at_once_) {
    say(fmt::format("mpirun was ended by {} ({})", name_of(WTERMSIG(*mpirun_status_)),
                    strsignal(WTERMSIG(*mpirun_status_))));
  }
  if (stop_signal_ != 0) return;
  for (const auto& line : ranks_.failures()) say(line);
}

int Supervisor::exit_code() const {
  if (could_not_start_) return kCannotStart;
  if (stop_signal_ != 0) return kSignalExit + stop_signal_;
  if (const auto failure = ranks_.failure()) return *failure;
  if (mpirun_was_stuck_ && ranks_.all_ended()) return 0;
  return exit_code_of(*mpirun_status_);
}

}  // namespace kolo::launch
