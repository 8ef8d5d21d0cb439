#include "launch/job_folder.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <system_error>
#include <utility>

namespace kolo::launch {
namespace {

namespace fs = std::filesystem;

[[noreturn]] void fail(const std::string& path) {
  throw std::system_error(errno, std::generic_category(),
                          fmt::format("the job's folder '{}'", path));
}

/// The folder locked, with others; -1 when it has been removed meanwhile.
int lock_with_others(const std::string& path) {
  const int folder = open(path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (folder < 0) {
    if (errno == ENOENT) return -1;
    fail(path);
  }
  struct stat locked {};
  struct stat named {};
  if (flock(folder, LOCK_SH) != 0 || fstat(folder, &locked) != 0) fail(path);
  if (locked.st_uid != geteuid()) {
    errno = EACCES;
    fail(path);
  }
  if (stat(path.c_str(), &named) == 0 && named.st_ino == locked.st_ino) return folder;
  close(folder);
  return -1;
}

std::string name_prefix() { return fmt::format("kolorun-{}-", geteuid()); }

fs::path base() {
  if (access("/dev/shm", W_OK | X_OK) == 0) return "/dev/shm";
  std::error_code error;
  const auto path = fs::temp_directory_path(error);
  return error ? fs::path("/tmp") : path;
}

/// Removes the folders beside which no process of their job is left.
void sweep(const fs::path& where) {
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(where, error)) {
    if (!entry.path().filename().string().starts_with(name_prefix())) continue;
    const int folder = open(entry.path().c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (folder < 0) continue;
    struct stat status {};
    const bool own = fstat(folder, &status) == 0 && status.st_uid == geteuid();
    if (own && flock(folder, LOCK_EX | LOCK_NB) == 0) fs::remove_all(entry.path(), error);
    close(folder);
  }
}

}  // namespace

JobFolder JobFolder::create() {
  const auto where = base();
  sweep(where);
  while (true) {
    auto path = (where / (name_prefix() + "XXXXXX")).string();
    if (mkdtemp(path.data()) == nullptr) fail(path);
    const int lock = lock_with_others(path);
    if (lock >= 0) return {path, lock};
  }
}

JobFolder JobFolder::join(const std::string& path) {
  sweep(fs::path(path).parent_path());
  while (true) {
    if (mkdir(path.c_str(), S_IRWXU) != 0 && errno != EEXIST) fail(path);
    const int lock = lock_with_others(path);
    if (lock >= 0) return {path, lock};
  }
}

JobFolder::JobFolder(JobFolder&& other) noexcept
    : path_(std::move(other.path_)), lock_(std::exchange(other.lock_, -1)) {}

JobFolder::~JobFolder() {
  if (lock_ < 0) return;
  std::error_code error;
  if (flock(lock_, LOCK_EX | LOCK_NB) == 0) fs::remove_all(path_, error);
  close(lock_);
}

}  // namespace kolo::launch
