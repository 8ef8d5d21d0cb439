#pragma once

/// What every rank did when, as one Chrome trace that Perfetto and chrome://tracing open.
///
/// Ranks are the trace's processes, tracks its threads. All ranks of rank 0's host append to one file,
/// one event a line in an array without end, so that it can be opened while they run and after they
/// were killed. Ranks of other hosts send their lines to rank 0. Off is a null pointer.

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/status.h"
#include "engine/trace_event.h"
#include "engine/trace_sink.h"

namespace kolo::core {

class TraceWriter;

/// Thread-safe. Recording formats a line into memory and returns; a thread of the timeline's own
/// writes the file, a tenth of a second later at the most.
class Timeline {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;
  /// Names and values for the viewer's details pane, such as {{"bytes", 4096}, {"plane", "mpi"}}.
  using Args = TraceArgs;

  struct Options {
    int rank = 0;
    std::string host;
    /// The moment, on rank 0's clock, that the trace calls 0; the same on all ranks.
    TimePoint origin{};
    /// Added to this process's clock to get rank 0's; 0 on the host of rank 0.
    std::chrono::nanoseconds clock_offset{0};
    /// Bytes recorded but not yet written. Beyond, events are dropped and counted.
    std::size_t backlog_limit = std::size_t{64} << 20;
    /// Told, once and on the timeline's own thread, why writing has failed. May be empty.
    std::function<void(const std::string&)> on_error;
  };

  /// A horizontal line of the trace; belongs to the timeline that made it.
  struct Track {
    int number = 0;
  };

  /// A moment on a track, inside one of its slices.
  struct Place {
    Track track;
    TimePoint time;
  };

  /// Fails when the thread that writes cannot be started.
  static Result<std::unique_ptr<Timeline>> open(std::unique_ptr<TraceSink> sink,
                                                const Options& options);

  /// Writes what is left.
  ~Timeline();

  /// A new track, shown below those made before.
  Track add_track(std::string_view name);

  /// An interval. Slices of one track must lie apart or one inside the other, and the outer one is
  /// recorded first: viewers drop what overlaps partly. See Lanes.
  void slice(Track track, std::string_view name, TimePoint begin, TimePoint end, Args args = {});

  /// An interval that may overlap any other one. Viewers draw those with the same name together:
  /// name the activity, and put the tensor into `args`.
  void async_slice(Track track, std::string_view name, TimePoint begin, TimePoint end,
                   Args args = {});

  /// A moment.
  void instant(Track track, std::string_view name, TimePoint time, Args args = {});

  /// An arrow between two slices that have been recorded, forward in time. A slice may be empty
  /// (begin == end), as a moment to start from.
  void arrow(std::string_view name, Place from, Place to);

  /// Lines of another rank's timeline.
  void append(std::string_view lines);

  /// Returns when all that was recorded before is in the sink.
  void flush();

  /// The failure told to on_error. Nothing is recorded any more after one.
  Status status() const;

  /// Events turned away so far, because the backlog was full or writing had failed.
  std::uint64_t dropped() const;

 private:
  Timeline(const Options& options, std::unique_ptr<TraceWriter> writer);

  TraceEvent event(char phase, std::string_view name, Track track) const;
  TraceEvent event(char phase, std::string_view name, Track track, TimePoint time) const;
  void describe(std::string_view what, Track track, TraceArg value);
  std::int64_t new_id();

  const int rank_;
  const TimePoint zero_;  // on this process's clock
  std::unique_ptr<TraceWriter> writer_;
  std::atomic<int> tracks_{0};
  std::atomic<std::int64_t> ids_{0};
};

/// Tracks `name 0`, `name 1`, … for intervals that overlap, such as the groups in flight; as many
/// as are needed. For use by one thread.
class Lanes {
 public:
  Lanes(Timeline& timeline, std::string name) : timeline_(timeline), name_(std::move(name)) {}

  /// The first track with nothing after `begin`. The interval, and all slices inside it, may be
  /// recorded there. Asked when the interval is over, so in the order of ends.
  Timeline::Track pick(Timeline::TimePoint begin, Timeline::TimePoint end);

 private:
  struct Lane {
    Timeline::Track track;
    Timeline::TimePoint end;
  };

  Timeline& timeline_;
  std::string name_;
  std::vector<Lane> lanes_;
};

}  // namespace kolo::core
