#include "engine/trace_event.h"

#include <fmt/compile.h>

#include <array>
#include <cmath>
#include <cstddef>
#include <iterator>
#include <type_traits>

namespace kolo::core {
namespace {

using Byte = unsigned char;

/// The length of the UTF-8 sequence at the start of `text`; 0 if there is none that is valid.
std::size_t utf8_length(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<Byte>(text[i]); };
  const Byte first = byte(0);
  if (first < 0x80) return 1;
  const std::size_t length = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : 2;
  if (first < 0xC2 || first > 0xF4 || text.size() < length) return 0;
  for (std::size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return 0;
  }
  // Longer than needed, a surrogate, or above U+10FFFF.
  if (first == 0xE0 && byte(1) < 0xA0) return 0;
  if (first == 0xED && byte(1) > 0x9F) return 0;
  if (first == 0xF0 && byte(1) < 0x90) return 0;
  if (first == 0xF4 && byte(1) > 0x8F) return 0;
  return length;
}

bool is_plain(char c) { return c >= 0x20 && c < 0x7F && c != '"' && c != '\\'; }

}  // namespace

TraceEvent::TraceEvent(char phase, int pid) {
  put(R"({"ph":")");
  buffer_.push_back(phase);
  put("\"");
  number("pid", pid);
}

void TraceEvent::key(std::string_view key) {
  put(",\"");
  put(key);
  put("\":");
}

TraceEvent& TraceEvent::number(std::string_view name, std::int64_t value) {
  key(name);
  put(value);
  return *this;
}

TraceEvent& TraceEvent::text(std::string_view name, std::string_view value) {
  key(name);
  put_string(value);
  return *this;
}

TraceEvent& TraceEvent::time(std::string_view name, std::chrono::nanoseconds value) {
  key(name);
  const std::int64_t count = value.count();
  const auto size =
      count < 0 ? 0 - static_cast<std::uint64_t>(count) : static_cast<std::uint64_t>(count);
  if (count < 0) buffer_.push_back('-');
  put(static_cast<std::int64_t>(size / 1000));
  const auto digit = [](std::uint64_t number) { return static_cast<char>('0' + number % 10); };
  const std::array decimals = {'.', digit(size / 100), digit(size / 10), digit(size)};
  put({decimals.data(), decimals.size()});
  return *this;
}

TraceEvent& TraceEvent::local_id(std::int64_t value) {
  put(R"(,"id2":{"local":")");
  put(value);
  put("\"}");
  return *this;
}

TraceEvent& TraceEvent::args(TraceArgs args) {
  if (args.size() == 0) return *this;
  key("args");
  char separator = '{';
  for (const TraceArg& arg : args) {
    buffer_.push_back(separator);
    put_string(arg.key);
    buffer_.push_back(':');
    put_value(arg.value);
    separator = ',';
  }
  buffer_.push_back('}');
  return *this;
}

void TraceEvent::put(std::int64_t number) {
  const fmt::format_int digits(number);
  put({digits.data(), digits.size()});
}

void TraceEvent::put_value(const TraceValue& value) {
  std::visit(
      [this](const auto& held) {
        using T = std::remove_cvref_t<decltype(held)>;
        if constexpr (std::is_same_v<T, bool>) {
          put(held ? "true" : "false");
        } else if constexpr (std::is_same_v<T, std::string_view>) {
          put_string(held);
        } else if constexpr (std::is_same_v<T, double>) {
          // JSON has no infinities.
          if (!std::isfinite(held)) return put_string(std::to_string(held));
          fmt::format_to(std::back_inserter(buffer_), FMT_COMPILE("{}"), held);
        } else if constexpr (std::is_same_v<T, std::int64_t>) {
          put(held);
        } else {
          buffer_.push_back('[');
          for (const auto& element : held) {
            if (&element != held.data()) buffer_.push_back(',');
            put_value(element);
          }
          buffer_.push_back(']');
        }
      },
      value.held());
}

void TraceEvent::put_string(std::string_view text) {
  buffer_.push_back('"');
  while (!text.empty()) {
    std::size_t length = 0;
    while (length < text.size() && is_plain(text[length])) ++length;
    if (length == 0 && static_cast<Byte>(text[0]) >= 0x7F) length = utf8_length(text);
    if (length > 0) {
      put(text.substr(0, length));
    } else if (text[0] == '"' || text[0] == '\\') {
      buffer_.push_back('\\');
      buffer_.push_back(text[0]);
    } else if (static_cast<Byte>(text[0]) < 0x20) {
      fmt::format_to(std::back_inserter(buffer_), FMT_COMPILE("\\u{:04x}"),
                     static_cast<Byte>(text[0]));
    } else {
      put("\xEF\xBF\xBD");
    }
    text.remove_prefix(length > 0 ? length : 1);
  }
  buffer_.push_back('"');
}

std::string_view TraceEvent::line() {
  put("},\n");
  return {buffer_.data(), buffer_.size()};
}

std::string_view TraceEvent::followed_by(TraceEvent& next) {
  line();
  put(next.line());
  return {buffer_.data(), buffer_.size()};
}

}  // namespace kolo::core
