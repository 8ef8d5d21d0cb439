#include "context/context.h"

#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <utility>

#include "context/handshake.h"
#include "engine/trace_file.h"

namespace kolo::core {
namespace {

std::string host_name() {
  std::array<char, 256> name{};
  return gethostname(name.data(), name.size() - 1) == 0 ? name.data() : "unknown host";
}

/// The first process of a host begins the trace's file before it shakes hands, so that the others,
/// which open it afterwards, find it.
Status begin_timeline(const Config& config, const Topology& topology) {
  if (config.timeline.empty() || topology.local_rank != 0) return {};
  const Result<TraceFile> file = TraceFile::open(
      Timeline::path_on_host(config.timeline, topology.cross_rank), /*create=*/true);
  return file.ok() ? Status() : file.status();
}

Result<std::unique_ptr<Timeline>> join_timeline(const Config& config, const Topology& topology,
                                                const Agreement& agreement,
                                                std::shared_ptr<spdlog::logger> logger) {
  if (config.timeline.empty()) return std::unique_ptr<Timeline>();
  return Timeline::open({.path = Timeline::path_on_host(config.timeline, topology.cross_rank),
                         .create = false,
                         .rank = topology.rank,
                         .host = host_name(),
                         .origin = agreement.timeline_origin,
                         .clock_offset = agreement.clock_offset,
                         .on_error = [logger = std::move(logger)](const std::string& error) {
                           logger->error("the timeline is incomplete: {}", error);
                         }});
}

}  // namespace

Result<std::unique_ptr<Context>> Context::create(const Config& config, const Connect& connect) {
  std::unique_ptr<Context> context(new Context());
  Result<Planes> planes = connect(context->doorbell_);
  if (!planes.ok()) return planes.status();
  context->planes_ = std::move(planes).value();
  context->topology_ = context->planes_.control->topology();
  context->logger_ = make_logger(context->topology_.rank, config.log_level);

  const Status begun = begin_timeline(config, context->topology_);
  const Result<Agreement> agreement =
      shake_hands(config, begun, *context->planes_.control, context->doorbell_);
  if (!agreement.ok()) return agreement.status();
  Result<std::unique_ptr<Timeline>> timeline =
      join_timeline(config, context->topology_, agreement.value(), context->logger_);
  if (!timeline.ok()) return timeline.status();
  context->timeline_ = std::move(timeline).value();
  context->coordinator_ = std::make_unique<Coordinator>(
      config,
      Coordinator::Planes{*context->planes_.control, *context->planes_.data, context->doorbell_},
      context->timeline_.get(), *context->logger_);
  return context;
}

Context::~Context() = default;

std::shared_ptr<Work> Context::submit(Submission submission) {
  Request& request = submission.request;
  if (request.name.empty()) {
    const std::lock_guard lock(mutex_);
    request.name = fmt::format("{}.unnamed.{}", to_string(request.kind),
                               unnamed_[{submission.channel, request.kind}]++);
  }
  std::shared_ptr<Work> work = submission.work;
  coordinator_->submit(std::move(submission));
  return work;
}

}  // namespace kolo::core
