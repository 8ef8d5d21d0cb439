#pragma once

/// Timelines that write to a file of a test.

#include <fmt/format.h>

#include <chrono>
#include <cstdlib>
#include <memory>
#include <string>
#include <utility>

#include "engine/timeline.h"
#include "engine/trace_file.h"
#include "trace_reader.h"

namespace kolo::core {

using namespace std::chrono_literals;
using TimePoint = Timeline::TimePoint;

struct TimelineOptions : Timeline::Options {
  std::string path;
  bool create = true;
};

inline std::unique_ptr<Timeline> open_timeline(const TimelineOptions& options) {
  Result<TraceFile> file = TraceFile::open(options.path, options.create);
  if (!file.ok()) {
    fmt::print(stderr, "{}\n", file.status().message());
    std::abort();
  }
  Result<std::unique_ptr<Timeline>> timeline =
      Timeline::open(std::make_unique<TraceFile>(std::move(file).value()), options);
  if (!timeline.ok()) {
    fmt::print(stderr, "{}\n", timeline.status().message());
    std::abort();
  }
  return std::move(timeline).value();
}

inline TimelineOptions options_for(const TemporaryPath& path) {
  TimelineOptions options;
  options.path = path.string();
  options.rank = 3;
  options.host = "node\"1";
  options.origin = TimePoint(1s);
  return options;
}

}  // namespace kolo::core
