#include "launch/values.h"

#include <array>
#include <cctype>
#include <charconv>
#include <limits>
#include <utility>

namespace kolo::launch {
namespace {

std::optional<int> unit_shift(std::string_view unit) {
  static constexpr std::array<std::pair<std::string_view, int>, 8> kUnits{
      {{"", 0}, {"b", 0}, {"k", 10}, {"kib", 10}, {"m", 20}, {"mib", 20}, {"g", 30}, {"gib", 30}}};
  std::string lower;
  for (const char c : unit) {
    lower += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  }
  for (const auto& [name, shift] : kUnits) {
    if (lower == name) return shift;
  }
  return std::nullopt;
}

}  // namespace

std::optional<int> parse_count(std::string_view text) {
  int value = 0;
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc{} || stop != end || value < 1 || value > kMaxCount) return std::nullopt;
  return value;
}

std::optional<std::uint64_t> parse_bytes(std::string_view text) {
  std::uint64_t value = 0;
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc{}) return std::nullopt;
  const auto shift = unit_shift({stop, static_cast<std::size_t>(end - stop)});
  if (!shift || value > (std::numeric_limits<std::uint64_t>::max() >> *shift)) return std::nullopt;
  return value << *shift;
}

std::string shell_quote(const std::string& word) {
  static constexpr std::string_view kPlain =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-+=:,./@%";
  if (!word.empty() && word.find_first_not_of(kPlain) == std::string::npos) return word;
  std::string quoted = "'";
  for (const char c : word) {
    if (c == '\'') {
      quoted += "'\\''";
    } else {
      quoted += c;
    }
  }
  return quoted + "'";
}

}  // namespace kolo::launch
