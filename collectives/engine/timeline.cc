#include "engine/timeline.h"

#include <fmt/format.h>

#include <algorithm>

#include "engine/trace_writer.h"

namespace kolo::core {
namespace {

/// Of events that viewers match by category and id.
constexpr std::string_view kCategory = "kolo";

constexpr Timeline::Track kProcess{0};

}  // namespace

Result<std::unique_ptr<Timeline>> Timeline::open(std::unique_ptr<TraceSink> sink,
                                                 const Options& options) {
  auto writer =
      std::make_unique<TraceWriter>(std::move(sink), options.backlog_limit, options.on_error);
  if (Status status = writer->start(); !status.ok()) return status;
  return std::unique_ptr<Timeline>(new Timeline(options, std::move(writer)));
}

Timeline::Timeline(const Options& options, std::unique_ptr<TraceWriter> writer)
    : rank_(options.rank),
      zero_(options.origin - options.clock_offset),
      writer_(std::move(writer)) {
  describe("process_name", kProcess, {"name", fmt::format("rank {} ({})", rank_, options.host)});
  describe("process_sort_index", kProcess, {"sort_index", rank_});
}

Timeline::~Timeline() {
  if (const std::uint64_t count = dropped(); count > 0) {
    describe("process_labels", kProcess, {"labels", fmt::format("{} events dropped", count)});
  }
}

Timeline::Track Timeline::add_track(std::string_view name) {
  const Track track{++tracks_};
  describe("thread_name", track, {"name", name});
  describe("thread_sort_index", track, {"sort_index", track.number});
  return track;
}

void Timeline::slice(Track track, std::string_view name, TimePoint begin, TimePoint end,
                     Args args) {
  const auto duration = std::max(end - begin, TimePoint::duration::zero());
  writer_->append(event('X', name, track, begin).time("dur", duration).args(args).line());
}

void Timeline::async_slice(Track track, std::string_view name, TimePoint begin, TimePoint end,
                           Args args) {
  const std::int64_t id = new_id();
  TraceEvent first = event('b', name, track, begin);
  first.text("cat", kCategory).local_id(id).args(args);
  TraceEvent last = event('e', name, track, std::max(begin, end));
  last.text("cat", kCategory).local_id(id);
  writer_->append(first.followed_by(last));
}

void Timeline::instant(Track track, std::string_view name, TimePoint time, Args args) {
  writer_->append(event('i', name, track, time).text("s", "t").args(args).line());
}

void Timeline::arrow(std::string_view name, Place from, Place to) {
  const std::int64_t id = new_id();
  TraceEvent first = event('s', name, from.track, from.time);
  first.text("cat", kCategory).number("id", id);
  TraceEvent last = event('f', name, to.track, std::max(from.time, to.time));
  last.text("cat", kCategory).number("id", id).text("bp", "e");
  writer_->append(first.followed_by(last));
}

void Timeline::append(std::string_view lines) { writer_->append(lines); }

void Timeline::flush() { writer_->flush(); }

Status Timeline::status() const { return writer_->status(); }

std::uint64_t Timeline::dropped() const { return writer_->dropped(); }

TraceEvent Timeline::event(char phase, std::string_view name, Track track) const {
  TraceEvent result(phase, rank_);
  result.number("tid", track.number).text("name", name);
  return result;
}

TraceEvent Timeline::event(char phase, std::string_view name, Track track, TimePoint time) const {
  TraceEvent result = event(phase, name, track);
  result.time("ts", time - zero_);
  return result;
}

void Timeline::describe(std::string_view what, Track track, TraceArg value) {
  writer_->append(event('M', what, track).args({value}).line(), TraceWriter::Priority::Keep);
}

// Different on all ranks, as arrows need it, and exact in a viewer's doubles.
std::int64_t Timeline::new_id() { return (std::int64_t{rank_} << 32) + ++ids_; }

Timeline::Track Lanes::pick(Timeline::TimePoint begin, Timeline::TimePoint end) {
  const auto lane =
      std::ranges::find_if(lanes_, [&](const Lane& candidate) { return candidate.end <= begin; });
  if (lane != lanes_.end()) {
    lane->end = std::max(begin, end);
    return lane->track;
  }
  const Timeline::Track track = timeline_.add_track(fmt::format("{} {}", name_, lanes_.size()));
  lanes_.push_back({track, std::max(begin, end)});
  return track;
}

}  // namespace kolo::core
