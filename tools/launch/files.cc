#include "launch/files.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <sstream>
#include <system_error>

#include "launch/usage_error.h"

namespace kolo::launch {
namespace {

namespace fs = std::filesystem;

ProgramState state_of(const fs::path& path) {
  std::error_code error;
  if (!fs::exists(path, error)) return ProgramState::Missing;
  const bool runs = fs::is_regular_file(path, error) && access(path.c_str(), X_OK) == 0;
  return runs ? ProgramState::Ready : ProgramState::NotExecutable;
}

}  // namespace

std::string read_file(const std::string& path, const std::string& kind) {
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "re"),
                                                             &std::fclose);
  std::string text;
  bool failed = file == nullptr;
  for (int c = 0; !failed && (c = std::fgetc(file.get())) != EOF;) text += static_cast<char>(c);
  if (file) failed = std::ferror(file.get()) != 0;
  if (failed) {
    throw UsageError(fmt::format("{} '{}' cannot be read: {}", kind, path,
                                 std::generic_category().message(errno)));
  }
  return text;
}

ProgramState find_program(const std::string& name, const std::string& search_path) {
  if (name.find('/') != std::string::npos) return state_of(name);
  auto found = ProgramState::Missing;
  std::istringstream folders(search_path);
  for (std::string folder; std::getline(folders, folder, ':');) {
    const auto state = state_of(fs::path(folder.empty() ? "." : folder) / name);
    if (state == ProgramState::Ready) return state;
    if (state == ProgramState::NotExecutable) found = state;
  }
  return found;
}

void check_writable(const std::string& path, const std::string& option) {
  const fs::path file(path);
  const auto folder = file.parent_path();
  std::error_code error;
  if (!fs::is_directory(folder, error)) {
    throw UsageError(fmt::format("{}: the folder '{}' does not exist; create it with mkdir -p",
                                 option, folder.string()));
  }
  if (!file.has_filename() || fs::is_directory(file, error)) {
    throw UsageError(fmt::format("{}: '{}' is a folder; name a file in it", option, path));
  }
  const auto& target = fs::exists(file, error) ? file : folder;
  if (access(target.c_str(), W_OK) != 0) {
    throw UsageError(
        fmt::format("{}: '{}' is not writable; choose another place", option, target.string()));
  }
}

}  // namespace kolo::launch
