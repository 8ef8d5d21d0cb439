// How the launcher reads single values (counts, sizes) and quotes words for a shell.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace kolo::launch {

inline constexpr int kMaxCount = 1'000'000;

/// A whole number from 1 to kMaxCount with nothing around it.
std::optional<int> parse_count(std::string_view text);

/// Bytes as 1024, 64K, 64MiB, 1g: the units are powers of 1024.
std::optional<std::uint64_t> parse_bytes(std::string_view text);

/// One word that a POSIX shell reads back unchanged.
std::string shell_quote(const std::string& word);

}  // namespace kolo::launch
