#pragma once

/// One Chrome trace event as a line of JSON text.

#include <fmt/format.h>

#include <chrono>
#include <concepts>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace kolo::core {

/// A value in an event's details. Refers to its strings: for use as an argument of a call.
class TraceValue {
 public:
  using Strings = std::span<const std::string_view>;
  using Numbers = std::span<const std::int64_t>;
  using Variant = std::variant<bool, std::int64_t, double, std::string_view, Strings, Numbers>;

  // NOLINTBEGIN(google-explicit-constructor)
  TraceValue(bool value) : held_(value) {}
  template <std::integral T>
  TraceValue(T value) : held_(static_cast<std::int64_t>(value)) {}
  TraceValue(double value) : held_(value) {}
  TraceValue(const char* value) : held_(std::string_view(value)) {}
  TraceValue(std::string_view value) : held_(value) {}
  TraceValue(const std::string& value) : held_(std::string_view(value)) {}
  TraceValue(const std::vector<std::string_view>& value) : held_(Strings(value)) {}
  TraceValue(const std::vector<std::int64_t>& value) : held_(Numbers(value)) {}
  // NOLINTEND(google-explicit-constructor)

  const Variant& held() const { return held_; }

 private:
  Variant held_;
};

struct TraceArg {
  std::string_view key;
  TraceValue value;
};

using TraceArgs = std::initializer_list<TraceArg>;

/// Builds `{"ph":"X","pid":3,…},\n`. By hand, because it runs on the threads that are observed.
class TraceEvent {
 public:
  /// `phase` is the trace format's letter for the kind of event.
  TraceEvent(char phase, int pid);

  /// `key` is plain text that needs no escape.
  TraceEvent& number(std::string_view key, std::int64_t value);
  /// `value` may be any bytes; what is not UTF-8 becomes U+FFFD.
  TraceEvent& text(std::string_view key, std::string_view value);
  /// In microseconds, the format's unit, with the nanoseconds as decimals.
  TraceEvent& time(std::string_view key, std::chrono::nanoseconds value);
  /// Ties events of one asynchronous slice; counts within the process.
  TraceEvent& local_id(std::int64_t value);
  TraceEvent& args(TraceArgs args);

  /// The whole line. Nothing may be added after it.
  std::string_view line();
  /// This line and the next one.
  std::string_view followed_by(TraceEvent& next);

 private:
  void key(std::string_view key);
  void put(std::string_view text) { buffer_.append(text.data(), text.data() + text.size()); }
  void put(std::int64_t number);
  void put_value(const TraceValue& value);
  void put_string(std::string_view text);

  fmt::basic_memory_buffer<char, 1024> buffer_;
};

}  // namespace kolo::core
