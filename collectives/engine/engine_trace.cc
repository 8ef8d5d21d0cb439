#include "engine/engine_trace.h"

#include <fmt/format.h>

#include <string>
#include <string_view>
#include <vector>

#include "base/names.h"

namespace kolo::core {
namespace {

/// A moment drawn as a slice, because an arrow begins in a slice.
constexpr auto kMoment = std::chrono::nanoseconds(100);

}  // namespace

EngineTrace::EngineTrace(Timeline& timeline)
    : timeline_(timeline),
      negotiation_(timeline.add_track("negotiation")),
      ready_(timeline, "ready"),
      groups_(timeline, "collectives") {}

void EngineTrace::negotiated(const Submission& submission, Clock::time_point now) {
  timeline_.async_slice(negotiation_, "negotiation", submission.submitted, now,
                        {{"tensor", shortened(submission.request.name)},
                         {"kind", to_string(submission.request.kind)}});
}

void EngineTrace::ran(std::span<const Submission* const> group, std::size_t bytes,
                      const GroupTimes& times) {
  std::vector<Part> parts;
  for (const Submission* submission : group) {
    if (submission->parts.empty()) {
      parts.push_back({shortened(submission->request.name), submission->submitted});
    }
    for (const Part& part : submission->parts) parts.push_back({shortened(part.name), part.ready});
  }
  std::vector<std::string_view> names;
  for (const Part& part : parts) names.push_back(part.name);
  const Request& request = group.front()->request;
  const std::string_view kind = to_string(request.kind);
  const std::string title = parts.size() == 1
                                ? fmt::format("{} {}", kind, names.front())
                                : fmt::format("{} of {} tensors", kind, parts.size());

  timeline_.async_slice(negotiation_, "queue", times.agreed, times.started, {{"group", title}});
  const Timeline::Track lane = groups_.pick(times.started, times.unpacked);
  timeline_.slice(lane, title, times.started, times.unpacked,
                  {{"tensors", names},
                   {"bytes", bytes},
                   {"dtype", to_string(request.dtype)},
                   {"channel", group.front()->channel}});
  timeline_.slice(lane, "pack", times.started, times.packed);
  timeline_.slice(lane, "reduce", times.packed, times.reduced);
  timeline_.slice(lane, "unpack", times.reduced, times.unpacked);
  for (const Part& part : parts) {
    const Timeline::Track track = ready_.pick(part.ready, part.ready + kMoment);
    timeline_.slice(track, part.name, part.ready, part.ready + kMoment);
    timeline_.arrow("ready", {track, part.ready}, {lane, times.packed});
  }
}

}  // namespace kolo::core
