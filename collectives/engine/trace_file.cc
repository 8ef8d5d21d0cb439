#include "engine/trace_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <system_error>
#include <thread>
#include <utility>

namespace kolo::core {
namespace {

constexpr std::int64_t kPage = 4096;

Status failure(std::string_view what, const std::string& path, int error) {
  return Status::error(fmt::format("cannot {} the timeline '{}': {}", what, path,
                                   std::generic_category().message(error)));
}

/// The right to append, so that the end of the file stays where it is. A process that dies gives it
/// back; one that is stopped while it has it, or a file system without locks, is not waited for.
class AppendLock {
 public:
  explicit AppendLock(int fd) : fd_(fd) {
    for (int attempt = 0; attempt < kAttempts; ++attempt) {
      held_ = ::flock(fd_, LOCK_EX | LOCK_NB) == 0;
      if (held_ || errno != EWOULDBLOCK) return;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }
  AppendLock(const AppendLock&) = delete;
  AppendLock& operator=(const AppendLock&) = delete;
  ~AppendLock() {
    if (held_) ::flock(fd_, LOCK_UN);
  }

  bool held() const { return held_; }

 private:
  static constexpr int kAttempts = 500;

  int fd_;
  bool held_ = false;
};

/// Removes what follows the last whole line. Returns the size of the file, or -1 (errno).
std::int64_t cut_to_whole_lines(int fd) {
  struct stat info {};
  if (::fstat(fd, &info) != 0) return -1;
  std::int64_t end = info.st_size;
  while (end > 0) {
    std::array<char, kPage> tail{};
    const std::int64_t begin = std::max<std::int64_t>(0, end - kPage);
    const ssize_t count = ::pread(fd, tail.data(), static_cast<std::size_t>(end - begin), begin);
    if (count >= 0 && count != end - begin) errno = EIO;
    if (count != end - begin) return -1;
    const std::string_view text(tail.data(), static_cast<std::size_t>(count));
    const auto newline = text.rfind('\n');
    end = newline == text.npos ? begin : begin + static_cast<std::int64_t>(newline) + 1;
    if (newline != text.npos) break;
  }
  if (end != info.st_size && ::ftruncate(fd, end) != 0) return -1;
  return end;
}

/// The lines with spaces between them so that, from `offset` on, none crosses the border of a page.
std::string lay_out(std::string_view lines, std::int64_t offset) {
  std::string out;
  out.reserve(lines.size() + lines.size() / 8 + kPage);
  while (!lines.empty()) {
    const std::string_view line = lines.substr(0, lines.find('\n') + 1);
    const auto length = static_cast<std::int64_t>(line.size());
    const std::int64_t rest = kPage - (offset + static_cast<std::int64_t>(out.size())) % kPage;
    if (length > rest && length <= kPage) out.append(static_cast<std::size_t>(rest), ' ');
    out += line;
    lines.remove_prefix(line.size());
  }
  return out;
}

bool begins_a_trace(int fd) {
  std::array<char, 2> begin{};
  return ::pread(fd, begin.data(), begin.size(), 0) == 2 && begin == std::array{'[', '\n'};
}

/// 0, or errno.
int write_all(int fd, std::string_view text) {
  while (!text.empty()) {
    const ssize_t count = ::write(fd, text.data(), text.size());
    if (count < 0 && errno != EINTR) return errno;
    if (count > 0) text.remove_prefix(static_cast<std::size_t>(count));
  }
  return 0;
}

}  // namespace

Result<TraceFile> TraceFile::open(const std::string& path, bool create) {
  // O_NONBLOCK: not to wait for the other end of a named pipe.
  const int flags = O_RDWR | O_APPEND | O_CLOEXEC | O_NONBLOCK;
  TraceFile file(path, ::open(path.c_str(), create ? flags | O_CREAT : flags, 0666));
  if (file.fd_ < 0) return failure(create ? "create" : "open", path, errno);
  struct stat info {};
  if (::fstat(file.fd_, &info) != 0) return failure("open", path, errno);
  if (!S_ISREG(info.st_mode)) {
    return Status::error(fmt::format("cannot write the timeline '{}': not a regular file", path));
  }
  if (create) {
    if (info.st_size > 0 && !begins_a_trace(file.fd_)) {
      return Status::error(fmt::format(
          "cannot write the timeline '{}': the file is there already, and is no timeline: remove it, or "
          "choose another name",
          path));
    }
    if (::ftruncate(file.fd_, 0) != 0) return failure("create", path, errno);
    if (const int error = write_all(file.fd_, "[\n"); error != 0) {
      return failure("write", path, error);
    }
  }
  return file;
}

TraceFile::TraceFile(TraceFile&& other) noexcept
    : path_(std::move(other.path_)), fd_(std::exchange(other.fd_, -1)) {}

TraceFile::~TraceFile() {
  if (fd_ >= 0) ::close(fd_);
}

Status TraceFile::append(std::string_view lines) {
  const AppendLock lock(fd_);
  int error = 0;
  if (lock.held()) {
    const std::int64_t size = cut_to_whole_lines(fd_);
    if (size < 0) return failure("read", path_, errno);
    error = write_all(fd_, lay_out(lines, size));
    if (error != 0 && cut_to_whole_lines(fd_) < 0) error = errno;
  } else {
    error = write_all(fd_, lines);
  }
  return error == 0 ? Status() : failure("write", path_, error);
}

}  // namespace kolo::core
