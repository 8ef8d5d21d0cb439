#include "files.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <stdexcept>
#include <system_error>

namespace resnet_example {
namespace {

namespace fs = std::filesystem;

[[noreturn]] void fail(const char* what, const fs::path& path, int error) {
  throw std::runtime_error(
      fmt::format("cannot {} {}: {}", what, path.string(), std::generic_category().message(error)));
}

class FileDescriptor {
 public:
  FileDescriptor(const fs::path& path, int flags) : fd_(::open(path.c_str(), flags, 0666)) {}
  ~FileDescriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  FileDescriptor(const FileDescriptor&) = delete;
  FileDescriptor& operator=(const FileDescriptor&) = delete;
  int get() const { return fd_; }

 private:
  int fd_;
};

void write_durably(const fs::path& path, std::string_view bytes) {
  const FileDescriptor file(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC);
  if (file.get() < 0) fail("create", path, errno);
  while (!bytes.empty()) {
    const ssize_t written = ::write(file.get(), bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) fail("write", path, errno);
    bytes.remove_prefix(static_cast<std::size_t>(written));
  }
  if (::fsync(file.get()) != 0) fail("write", path, errno);
}

}  // namespace

std::string read_file(const fs::path& path) {
  const FileDescriptor file(path, O_RDONLY | O_CLOEXEC);
  if (file.get() < 0) fail("read", path, errno);
  constexpr std::size_t kChunk = 1 << 20;
  std::string bytes;
  for (;;) {
    const std::size_t size = bytes.size();
    bytes.resize(size + kChunk);
    const ssize_t got = ::read(file.get(), bytes.data() + size, kChunk);
    const int error = errno;
    bytes.resize(size + (got > 0 ? static_cast<std::size_t>(got) : 0));
    if (got < 0 && error != EINTR) fail("read", path, error);
    if (got == 0) return bytes;
  }
}

void write_file_atomically(const fs::path& path, std::string_view bytes) {
  const fs::path folder = path.has_parent_path() ? path.parent_path() : fs::path(".");
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) fail("create folder", folder, error.value());

  fs::path temporary = path;
  temporary += ".tmp";
  try {
    write_durably(temporary, bytes);
  } catch (...) {
    fs::remove(temporary, error);
    throw;
  }
  fs::rename(temporary, path, error);
  if (error) fail("rename to", path, error.value());
  const FileDescriptor entry(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (entry.get() >= 0) ::fsync(entry.get());  // some file systems cannot; the data is safe anyway
}

}  // namespace resnet_example
