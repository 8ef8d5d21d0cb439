#include "launch/own_streams.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <system_error>

namespace kolo::launch {
namespace {

constexpr std::size_t kPart = 4096;  ///< what a pipe takes at once when it takes anything

}  // namespace

WriteResult write_some(int stream, std::string& text) {
  const auto written = write(stream, text.data(), std::min(text.size(), kPart));
  if (written >= 0) {
    text.erase(0, static_cast<std::size_t>(written));
    return WriteResult::Good;
  }
  if (errno == EINTR || errno == EAGAIN) return WriteResult::Good;
  const int reason = errno;
  text.clear();
  if (reason == EPIPE) return WriteResult::NobodyReads;
  if (reason == EIO) return WriteResult::TerminalGone;
  if (stream != STDERR_FILENO) {
    fmt::print(stderr, "kolorun: warning: output is lost: {}\n",
               std::generic_category().message(reason));
  }
  return WriteResult::Good;
}

TypedInput::TypedInput() {
  if (isatty(STDIN_FILENO) == 0) return;
  std::array<int, 2> ends{};
  if (pipe2(ends.data(), O_CLOEXEC) != 0) return;
  read_ = FileDescriptor(ends[0]);
  write_ = FileDescriptor(ends[1]);
}

pollfd TypedInput::wanted() const {
  if (write_.get() < 0) return {-1, 0, 0};
  if (!typed_.empty()) return {write_.get(), POLLOUT, 0};
  // In the background the terminal belongs to another program.
  const bool foreground = tcgetpgrp(STDIN_FILENO) == getpgrp();
  return {foreground ? STDIN_FILENO : -1, POLLIN, 0};
}

void TypedInput::serve() {
  if (!typed_.empty()) {
    const auto written = write(write_.get(), typed_.data(), typed_.size());
    if (written > 0) typed_.erase(0, static_cast<std::size_t>(written));
    if (written < 0 && errno != EINTR) write_.reset();
    return;
  }
  std::array<char, kPart> text{};
  const auto size = read(STDIN_FILENO, text.data(), text.size());
  if (size > 0) {
    typed_.assign(text.data(), static_cast<std::size_t>(size));
  } else if (size == 0 || errno != EINTR) {
    write_.reset();
  }
}

}  // namespace kolo::launch
