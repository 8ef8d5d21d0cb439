#pragma once

/// Files that are either complete or not there, and nobody else's.

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

namespace resnet_example {

/// A file that is open for writing. Its functions throw std::runtime_error that names the path and
/// the reason.
class OutputFile {
 public:
  enum class How {
    New,  ///< what lies at the path is removed: neither a file nor a link's target is written to
    Continue,  ///< a regular file is made or continued; a link is an error
    Append     ///< to what is there, of whatever kind; a pipe that nobody reads is an error
  };

  OutputFile(std::filesystem::path path, How how);
  ~OutputFile();
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;

  void write(std::string_view bytes);
  /// Makes sure that it is on the disk.
  void sync();

 private:
  std::filesystem::path path_;
  int fd_;
};

/// The whole file. @throws std::runtime_error that names the path and the reason.
std::string read_file(const std::filesystem::path& path);

/// The file that write_file_atomically() would replace: where links at `path` lead. None where it
/// would refuse to: that is a folder, a device or a pipe, or what a process has open (/dev/stdout).
std::optional<std::filesystem::path> replaceable_file(const std::filesystem::path& path);

/// Writes to PATH.tmp, makes sure that it is on the disk, and renames it to PATH: whatever happens
/// meanwhile, PATH is the old file or the new one. Creates the folder. Where PATH is a link, its
/// target is replaced.
///
/// @throws std::runtime_error that names the path and the reason.
void write_file_atomically(const std::filesystem::path& path, std::string_view bytes);

/// Creates the folder. @throws std::runtime_error when no file can be written there.
void require_writable_folder(const std::filesystem::path& folder);

}  // namespace resnet_example
