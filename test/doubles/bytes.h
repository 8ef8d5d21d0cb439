#pragma once

/// memcpy and memset of devices' memory, in code that ThreadSanitizer looks into, also where it is
/// told to ignore what libraries that it does not know do, libc's functions among them.

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace kolo::doubles {

inline void copy_bytes(void* to, const void* from, std::size_t size) {
  auto* target = static_cast<std::byte*>(to);
  const auto* source = static_cast<const std::byte*>(from);
  for (; size >= sizeof(std::uint64_t); size -= sizeof(std::uint64_t)) {
    std::uint64_t word = 0;
    std::memcpy(&word, source, sizeof word);
    std::memcpy(target, &word, sizeof word);
    source += sizeof word;
    target += sizeof word;
  }
  while (size-- > 0) *target++ = *source++;
}

inline void fill_bytes(void* to, unsigned char value, std::size_t size) {
  auto* target = static_cast<std::byte*>(to);
  std::uint64_t word = 0;
  std::memset(&word, value, sizeof word);
  for (; size >= sizeof word; size -= sizeof word, target += sizeof word) {
    std::memcpy(target, &word, sizeof word);
  }
  while (size-- > 0) *target++ = std::byte{value};
}

}  // namespace kolo::doubles
