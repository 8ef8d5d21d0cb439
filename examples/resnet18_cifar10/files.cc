#include "files.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <stdexcept>
#include <system_error>
#include <utility>

namespace resnet_example {
namespace {

namespace fs = std::filesystem;

constexpr mode_t kMode = 0666;

[[noreturn]] void fail(const char* what, const fs::path& path, int error) {
  throw std::runtime_error(
      fmt::format("cannot {} {}: {}", what, path.string(), std::generic_category().message(error)));
}

[[noreturn]] void refuse(const char* what, const fs::path& path) {
  throw std::runtime_error(fmt::format("cannot {} {}: it is no regular file", what, path.string()));
}

fs::path folder_of(const fs::path& path) {
  return path.has_parent_path() ? path.parent_path() : fs::path(".");
}

void create_folder(const fs::path& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) fail("create folder", folder, error.value());
}

int open_new(const fs::path& path) {
  constexpr int kFlags = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC;
  const int fd = ::open(path.c_str(), kFlags, kMode);
  if (fd >= 0 || errno != EEXIST || ::unlink(path.c_str()) != 0) return fd;
  return ::open(path.c_str(), kFlags, kMode);
}

/// O_NONBLOCK: or a pipe would be waited for until somebody reads it.
int open_end(const fs::path& path, int more_flags) {
  const int fd =
      ::open(path.c_str(), O_WRONLY | O_APPEND | O_NONBLOCK | O_CLOEXEC | more_flags, kMode);
  if (fd >= 0) ::fcntl(fd, F_SETFL, O_APPEND);
  return fd;
}

int open_file(const fs::path& path, OutputFile::How how) {
  switch (how) {
    case OutputFile::How::New:
      return open_new(path);
    case OutputFile::How::Continue:
      return open_end(path, O_CREAT | O_NOFOLLOW);
    case OutputFile::How::Append:
      return open_end(path, 0);
  }
  return -1;
}

bool is_regular(int fd) {
  struct stat status {};
  return ::fstat(fd, &status) == 0 && S_ISREG(status.st_mode);
}

}  // namespace

OutputFile::OutputFile(fs::path path, How how)
    : path_(std::move(path)), fd_(open_file(path_, how)) {
  if (fd_ < 0) fail(how == How::New ? "create" : "write", path_, errno);
  if (how != How::Continue || is_regular(fd_)) return;
  ::close(fd_);
  refuse("write", path_);
}

OutputFile::~OutputFile() { ::close(fd_); }

void OutputFile::write(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(fd_, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) fail("write", path_, errno);
    bytes.remove_prefix(static_cast<std::size_t>(written));
  }
}

void OutputFile::sync() {
  if (::fsync(fd_) != 0) fail("write", path_, errno);
}

std::string read_file(const fs::path& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC);
  if (fd < 0) fail("read", path, errno);
  if (!is_regular(fd)) {
    ::close(fd);
    refuse("read", path);
  }
  constexpr std::size_t kChunk = 1 << 20;
  std::string bytes;
  ssize_t got = 0;
  int error = 0;
  do {
    const std::size_t size = bytes.size();
    bytes.resize(size + kChunk);
    got = ::read(fd, bytes.data() + size, kChunk);
    error = errno;
    bytes.resize(size + (got > 0 ? static_cast<std::size_t>(got) : 0));
  } while (got > 0 || (got < 0 && error == EINTR));
  ::close(fd);
  if (got < 0) fail("read", path, error);
  return bytes;
}

std::optional<fs::path> replaceable_file(const fs::path& path) {
  const fs::file_status status = fs::status(path);
  if (fs::exists(status) && !fs::is_regular_file(status)) return std::nullopt;
  fs::path target = path;
  while (fs::is_symlink(target)) {
    const fs::path folder = folder_of(target);
    if (fs::canonical(folder).native().starts_with("/proc/")) return std::nullopt;
    target = folder / fs::read_symlink(target);
  }
  return target;
}

void write_file_atomically(const fs::path& path, std::string_view bytes) {
  create_folder(folder_of(path));
  const std::optional<fs::path> target = replaceable_file(path);
  if (!target) refuse("write", path);
  fs::path temporary = *target;
  temporary += ".tmp";
  std::error_code error;
  try {
    OutputFile file(temporary, OutputFile::How::New);
    file.write(bytes);
    file.sync();
  } catch (...) {
    fs::remove(temporary, error);
    throw;
  }
  fs::rename(temporary, *target, error);
  if (error) fail("rename to", *target, error.value());
  const int folder = ::open(folder_of(*target).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder < 0) return;
  ::fsync(folder);  // some file systems cannot; the data is safe anyway
  ::close(folder);
}

void require_writable_folder(const fs::path& folder) {
  create_folder(folder);
  const fs::path probe = folder / "probe.tmp";
  OutputFile(probe, OutputFile::How::New).write("x");
  fs::remove(probe);
}

}  // namespace resnet_example
