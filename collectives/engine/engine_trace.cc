#include "engine/engine_trace.h"

#include <fmt/format.h>

#include <string>
#include <string_view>
#include <vector>

namespace kolo::core {

EngineTrace::EngineTrace(Timeline& timeline)
    : timeline_(timeline),
      negotiation_(timeline.add_track("negotiation")),
      ready_(timeline.add_track("ready")),
      groups_(timeline, "collectives") {}

void EngineTrace::negotiated(const Submission& submission, Clock::time_point now) {
  timeline_.async_slice(
      negotiation_, "negotiation", submission.submitted, now,
      {{"tensor", submission.request.name}, {"kind", to_string(submission.request.kind)}});
}

void EngineTrace::ran(std::span<const Submission* const> group, std::size_t bytes,
                      const GroupTimes& times) {
  std::vector<std::string_view> names;
  for (const Submission* submission : group) names.push_back(submission->request.name);
  const Request& request = group.front()->request;
  const std::string_view kind = to_string(request.kind);
  const std::string title = group.size() == 1
                                ? fmt::format("{} {}", kind, request.name)
                                : fmt::format("{} of {} tensors", kind, group.size());

  const Timeline::Track lane = groups_.pick(times.agreed, times.unpacked);
  timeline_.slice(lane, title, times.agreed, times.unpacked,
                  {{"tensors", names},
                   {"bytes", bytes},
                   {"dtype", to_string(request.dtype)},
                   {"channel", group.front()->channel}});
  timeline_.slice(lane, "queue", times.agreed, times.started);
  timeline_.slice(lane, "pack", times.started, times.packed);
  timeline_.slice(lane, "reduce", times.packed, times.reduced);
  timeline_.slice(lane, "unpack", times.reduced, times.unpacked);
  for (const Submission* submission : group) {
    // A moment, but as a slice without length: an arrow begins in a slice.
    const Clock::time_point ready = submission->submitted;
    timeline_.slice(ready_, submission->request.name, ready, ready);
    timeline_.arrow("ready", {ready_, ready}, {lane, times.packed});
  }
}

}  // namespace kolo::core
