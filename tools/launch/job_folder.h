// A folder of a job's own on each of its hosts: for Open MPI's sockets and memory files, which
// would otherwise lie among those of other jobs, and stay when a process of Open MPI is killed.
#pragma once

#include <string>

namespace kolo::launch {

/// Whoever uses a folder holds a lock on it, which ends with the process however that ends. A
/// folder that nobody has locked is left over from a job that was killed, and goes when the next
/// one of this user begins.
class JobFolder {
 public:
  /// A new one, in /dev/shm, or where temporary files are. Throws std::system_error.
  static JobFolder create();

  /// The one of this path, which another process of the job has or has not made on this host.
  /// Throws std::system_error.
  static JobFolder join(const std::string& path);

  JobFolder(JobFolder&& other) noexcept;
  JobFolder& operator=(JobFolder&&) = delete;

  /// The last one to leave removes the folder.
  ~JobFolder();

  const std::string& path() const { return path_; }

 private:
  JobFolder(std::string path, int lock) : path_(std::move(path)), lock_(lock) {}

  std::string path_;
  int lock_;
};

}  // namespace kolo::launch
