#include "context/context.h"

#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <new>
#include <utility>

#include "base/forked.h"
#include "context/handshake.h"
#include "engine/trace_file.h"
#include "mpi/session.h"

namespace kolo::core {
namespace {

std::string host_name() {
  std::array<char, 256> name{};
  return gethostname(name.data(), name.size() - 1) == 0 ? name.data() : "unknown host";
}

/// Rank 0 begins the trace's file before it shakes hands, so that the others on its host, which
/// open it afterwards, find it.
Status begin_timeline(const Config& config, const Topology& topology) {
  if (config.timeline.empty() || topology.rank != 0) return {};
  const Result<TraceFile> file = TraceFile::open(config.timeline, /*create=*/true);
  return file.ok() ? Status() : file.status();
}

Result<std::unique_ptr<TraceSink>> open_sink(const Config& config, TraceRelay* relay) {
  if (relay != nullptr) return std::unique_ptr<TraceSink>(std::make_unique<RelayedTrace>(*relay));
  Result<TraceFile> file = TraceFile::open(config.timeline, /*create=*/false);
  if (!file.ok()) return file.status();
  return std::unique_ptr<TraceSink>(std::make_unique<TraceFile>(std::move(file).value()));
}

Result<std::unique_ptr<Timeline>> join_timeline(const Config& config, const Topology& topology,
                                                const Agreement& agreement, TraceRelay* relay,
                                                std::shared_ptr<spdlog::logger> logger) {
  if (config.timeline.empty()) return std::unique_ptr<Timeline>();
  Result<std::unique_ptr<TraceSink>> sink = open_sink(config, relay);
  if (!sink.ok()) return sink.status();
  return Timeline::open(std::move(sink).value(),
                        {.rank = topology.rank,
                         .host = host_name(),
                         .origin = agreement.timeline_origin,
                         .clock_offset = agreement.clock_offset,
                         .on_error = [logger = std::move(logger)](const std::string& error) {
                           logger->error("the timeline is incomplete: {}", error);
                         }});
}

}  // namespace

Result<std::unique_ptr<Context>> Context::create(const Config& config, const Connect& connect) {
  tell_children_apart();
  std::unique_ptr<Context> context(new Context(config));
  Result<Planes> planes = connect(config, context->doorbell_);
  if (!planes.ok()) return planes.status();
  context->planes_ = std::move(planes).value();
  context->topology_ = context->planes_.control->topology();
  context->logger_ = make_logger(context->topology_.rank, config.log_level);
  if (!context->planes_.warning.empty()) context->logger_->warn("{}", context->planes_.warning);
  context->logger_->debug("planes: {}", context->planes_.description);

  const Status begun = begin_timeline(config, context->topology_);
  const Result<Agreement> agreement =
      shake_hands(config, begun, *context->planes_.control, context->doorbell_);
  if (!agreement.ok()) return agreement.status();
  if (!agreement.value().warning.empty()) context->logger_->warn("{}", agreement.value().warning);
  const Status started = context->start(agreement.value());
  const Result<Agreement> all_started =
      shake_hands(config, started, *context->planes_.control, context->doorbell_);
  if (!all_started.ok()) {
    if (context->coordinator_ != nullptr) context->coordinator_->abandon();
    return all_started.status();
  }
  context->coordinator_->hear(all_started.value().early);
  return context;
}

/// What can fail on this rank alone, where the others have yet to be told.
Status Context::start(const Agreement& agreement) {
  try {
    const auto baton = std::make_shared<Baton>(doorbell_);
    if (!config_.timeline.empty() && !topology_.with_rank_0) {
      relay_ = std::make_unique<TraceRelay>(baton);
    }
    Result<std::unique_ptr<Timeline>> timeline =
        join_timeline(config_, topology_, agreement, relay_.get(), logger_);
    if (!timeline.ok()) return timeline.status();
    timeline_ = std::move(timeline).value();
    coordinator_ = std::make_unique<Coordinator>(
        config_, Coordinator::Planes{*planes_.control, *planes_.data, doorbell_}, baton,
        Coordinator::Trace{timeline_.get(), relay_.get()}, *logger_);
    return coordinator_->start();
  } catch (const std::bad_alloc&) {
    return Status::error("out of memory");
  }
}

Context::~Context() {
  if (coordinator_ != nullptr) leave();
}

void Context::leave() {
  if (is_forked_child()) return;
  // While rank 0 still listens.
  if (relay_ != nullptr) timeline_->flush();
  coordinator_->leave();
  // Which would wait for them, too.
  if (coordinator_->has_left_early()) mpi::leave_mpi_unfinished();
}

void Context::end_plan(ChannelId process_set, PlanId plan) {
  if (!is_forked_child()) coordinator_->end_plan(plan_channel(process_set, plan));
}

void Context::inform(const std::string& message) { logger_->info("{}", message); }

void Context::warn(const std::string& message) { logger_->warn("{}", message); }

Result<std::shared_ptr<std::byte>> Context::allocate(DeviceType device, std::size_t bytes) {
  if (is_forked_child()) return refused_in_child();
  if (device == DeviceType::Cuda) retired_.sweep();
  return planes_.data->allocate(device, bytes);
}

void Context::retire(std::shared_ptr<void> memory, RetiredMemory::Events last_uses) {
  retired_.add(std::move(memory), std::move(last_uses));
}

Status Context::run(const BlockingAllreduce& allreduce) {
  if (is_forked_child()) return refused_in_child();
  const Executor::RunNow run = coordinator_->run_now(allreduce);
  switch (run.state) {
    case Executor::RunNow::State::Done:
      return {};
    case Executor::RunNow::State::Late:
      return run.work->wait();
    case Executor::RunNow::State::Unable:
    case Executor::RunNow::State::Declined:
      break;
  }
  return submit(allreduce.submission())->wait();
}

std::shared_ptr<Work> Context::submit(Submission submission) {
  if (is_forked_child()) {
    submission.work->complete(refused_in_child());
    return submission.work;
  }
  Request& request = submission.request;
  if (request.name.empty()) {
    const std::lock_guard lock(mutex_);
    request.name = fmt::format("{}.unnamed.{}", to_string(request.kind),
                               unnamed_[{submission.channel, request.kind}]++);
  }
  if (request.device == DeviceType::Cuda) retired_.sweep();
  std::shared_ptr<Work> work = submission.work;
  coordinator_->submit(make_submission(std::move(submission)));
  return work;
}

}  // namespace kolo::core
