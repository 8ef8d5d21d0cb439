#pragma once

/// Reads a trace as strictly as the strictest viewer.

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

namespace kolo::core {

using Json = nlohmann::json;

/// A path for a new file, which is removed at the end.
class TemporaryPath {
 public:
  TemporaryPath() {
    static int count = 0;
    path_ =
        std::filesystem::temp_directory_path() /
        ("kolo_timeline_" + std::to_string(::getpid()) + "_" + std::to_string(count++) + ".json");
  }
  TemporaryPath(const TemporaryPath&) = delete;
  TemporaryPath& operator=(const TemporaryPath&) = delete;
  ~TemporaryPath() { std::filesystem::remove(path_); }

  std::string string() const { return path_.string(); }

 private:
  std::filesystem::path path_;
};

inline std::string read_text(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}

/// The events of a trace; a test failure if a line is not one whole event.
inline std::vector<Json> read_events(const std::string& path) {
  const std::string text = read_text(path);
  std::vector<Json> events;
  if (!text.starts_with("[\n")) {
    ADD_FAILURE() << "no array: " << text.substr(0, 20);
    return events;
  }
  if (!text.ends_with('\n')) ADD_FAILURE() << "cut at its end";
  std::istringstream lines(text.substr(2));
  for (std::string line; std::getline(lines, line);) {
    const bool comma = line.ends_with(',');
    if (comma) line.pop_back();
    Json event = Json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (!comma || !event.is_object()) {
      ADD_FAILURE() << "not an event: " << line.substr(0, 200);
      break;
    }
    events.push_back(std::move(event));
  }
  return events;
}

inline std::vector<Json> with_phase(const std::vector<Json>& events, std::string_view phase) {
  std::vector<Json> result;
  for (const Json& event : events) {
    if (event["ph"] == phase) result.push_back(event);
  }
  return result;
}

}  // namespace kolo::core
