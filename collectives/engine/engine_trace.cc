#include "engine/engine_trace.h"

#include <fmt/format.h>

#include <string>
#include <string_view>
#include <vector>

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
  for (const Submission* submission : group) {
    const Clock::time_point begin = submission->submitted;
    const Timeline::Track track = ready_.pick(begin, begin + kMoment);
    timeline_.slice(track, submission->request.name, begin, begin + kMoment);
    timeline_.arrow("ready", {track, begin}, {lane, times.packed});
  }
}

}  // namespace kolo::core
