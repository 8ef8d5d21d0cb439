// What the launcher asks the file system: texts to read, programs to find, a folder to write in.
#pragma once

#include <string>

namespace kolo::launch {

/// The whole file; `kind` ("hostfile") is what the message calls it. Throws UsageError.
std::string read_file(const std::string& path, const std::string& kind);

enum class ProgramState { Ready, Missing, NotExecutable };

/// Looks for a program as execvp does: `name` itself if it has a slash, else in `search_path`.
ProgramState find_program(const std::string& name, const std::string& search_path);

/// Throws UsageError when a file of this absolute path could not be written.
void check_writable(const std::string& path, const std::string& option);

}  // namespace kolo::launch
