#pragma once

/// Whether bytes are those that were written.

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

namespace resnet_example {

/// In lower-case hexadecimal. @throws std::runtime_error when the file cannot be read.
std::string sha256_of_file(const std::filesystem::path& path);

/// `bytes`, and behind them their SHA-256.
std::string sealed(std::string bytes);

/// Takes that off. Nothing when the bytes are not those that were sealed.
std::optional<std::string_view> unsealed(std::string_view bytes);

}  // namespace resnet_example
