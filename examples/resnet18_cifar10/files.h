#pragma once

/// Files that are either complete or not there.

#include <filesystem>
#include <string>
#include <string_view>

namespace resnet_example {

/// The whole file. @throws std::runtime_error that names the path and the reason.
std::string read_file(const std::filesystem::path& path);

/// Writes to PATH.tmp, makes sure that it is on the disk, and renames it to PATH: whatever happens
/// meanwhile, PATH is the old file or the new one. Creates the folder.
///
/// @throws std::runtime_error that names the path and the reason.
void write_file_atomically(const std::filesystem::path& path, std::string_view bytes);

}  // namespace resnet_example
