#include "base/names.h"

#include <fmt/format.h>

#include <cstddef>

namespace kolo::core {
namespace {

constexpr std::size_t kMostBytes = 80;

bool continues_character(char byte) { return (static_cast<unsigned char>(byte) & 0xC0) == 0x80; }

}  // namespace

std::string shortened(std::string_view name) {
  if (name.size() <= kMostBytes) return std::string(name);
  std::size_t length = kMostBytes;
  // No character has more than three of these.
  while (length > kMostBytes - 3 && continues_character(name[length])) --length;
  return fmt::format("{}… ({} bytes)", name.substr(0, length), name.size());
}

}  // namespace kolo::core
