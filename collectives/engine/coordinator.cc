#include "engine/coordinator.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <new>
#include <numeric>
#include <optional>
#include <utility>
#include <variant>

#include "engine/default_arithmetic.h"
#include "engine/validate.h"
#include "wire/codec.h"

namespace kolo::core {
namespace {

using std::chrono::duration_cast;
using std::chrono::microseconds;
using std::chrono::milliseconds;
using std::chrono::nanoseconds;

/// Looks for work in this time without sleeping. The thread that submits, or another rank, may share the
/// core: it is offered to them, except by a caller that has a core of its own.
constexpr auto kAwakeFor = microseconds(20);
/// Then it sleeps until a plane rings; or, where none does, for a fraction of the time that it has
/// been idle, within these bounds: an answer is seen late by at most that fraction, and a long wait
/// costs next to nothing.
constexpr int kSleepFraction = 8;
constexpr auto kShortestSleep = microseconds(20);
constexpr auto kLongestSleep = milliseconds(5);

std::vector<int> all_ranks(int size) {
  std::vector<int> ranks(static_cast<std::size_t>(size));
  std::iota(ranks.begin(), ranks.end(), 0);
  return ranks;
}

}  // namespace

Coordinator::Coordinator(const Config& config, Planes planes, std::shared_ptr<Baton> baton,
                         Trace trace, spdlog::logger& logger)
    : control_(planes.control),
      doorbell_(planes.doorbell),
      baton_(std::move(baton)),
      data_(planes.data),
      crowded_(planes.control.topology().local_size > sysconf(_SC_NPROCESSORS_ONLN)),
      logger_(logger),
      rank_(planes.control.topology().rank),
      relay_(trace.relay),
      trace_(trace.timeline == nullptr ? nullptr : std::make_unique<EngineTrace>(*trace.timeline)),
      executor_(planes.data,
                static_cast<std::size_t>(config.fusion_threshold.value_or(kDefaultFusionThreshold)),
                trace_.get()),
      plans_(executor_),
      stalls_(config, rank_, logger) {
  add_channel(kWorldChannel, all_ranks(control_.topology().size));
  baton_->serve(*this);
  thread_ = std::thread([this] { run_thread(); });
}

Coordinator::~Coordinator() { leave(); }

void Coordinator::submit(Submission submission) {
  const bool awaited = submission.awaited;
  submission.work->work_with(baton_);
  {
    const std::lock_guard lock(mutex_);
    if (leave_called_) {
      return submission.work->complete(Status::error(
          fmt::format("{}: submitted after kolo::shutdown()", label(submission.request))));
    }
    submitted_.push_back(std::move(submission));
  }
  baton_->call(awaited);
}

void Coordinator::end_plan(ChannelId plan) {
  {
    const std::lock_guard lock(mutex_);
    if (leave_called_) return;
    ended_.push_back(plan);
  }
  baton_->call(/*awaited=*/false);
}

void Coordinator::leave() {
  {
    const std::lock_guard lock(mutex_);
    leave_called_ = true;
  }
  baton_->close();
  std::call_once(join_once_, [this] { thread_.join(); });
}

void Coordinator::run_thread() {
  bool over = false;
  while (!over) {
    baton_->take();
    run(/*awaited=*/nullptr);
    over = finished();
    if (over) complete_pending("kolo::shutdown() was called before it was done");
    baton_->give_back();
  }
}

void Coordinator::run(const Work* awaited) noexcept {
  const DefaultArithmetic arithmetic;
  Clock::time_point idle_since = now_ = Clock::now();
  while (!finished() && !baton_->recalled()) {
    const Result<bool> moved = advance_within_memory();
    if (!moved.ok()) fail(moved.status().message(), /*tell_others=*/true);
    if (awaited != nullptr && awaited->done()) return;
    if (moved.ok() && moved.value()) {
      idle_since = now_ = Clock::now();
    } else if (has_work()) {
      sleep(now_ - idle_since, /*gives_way=*/awaited == nullptr || crowded_);
      now_ = Clock::now();
    } else {
      return;
    }
  }
}

/// Besides what can come from other ranks, what is to be taken from this one's users.
bool Coordinator::has_work() {
  if (expecting()) return true;
  if (relay_ != nullptr && !leaving_ && !relay_->empty()) return true;
  const std::lock_guard lock(mutex_);
  return !submitted_.empty() || !ended_.empty() || (leave_called_ && !leaving_);
}

bool Coordinator::finished() const {
  if (!leaving_) return false;
  if (!failure_.empty()) return true;
  return executor_.idle() && std::ranges::all_of(channels_, [this](const auto& entry) {
           return all_left_.contains(entry.first);
         });
}

Result<bool> Coordinator::advance_within_memory() {
  try {
    return advance();
  } catch (const std::bad_alloc&) {
    return Status::error(fmt::format("rank {} is out of memory", rank_));
  }
}

/// One look at everything that can have changed. True when something has.
Result<bool> Coordinator::advance() {
  const Result<bool> taken = take_submissions();
  if (!taken.ok()) return taken;
  const Result<bool> received = receive();
  if (!received.ok()) return received;
  const Result<bool> answered = answer();
  if (!answered.ok()) return answered;
  const Result<bool> progressed = executor_.progress();
  if (!progressed.ok()) {
    // It may be the consequence of another rank's failure, or of a leave, which has been told before.
    const Result<bool> told = receive();
    if (!told.ok() || !executor_.failure_is_moot()) return progressed;
    return true;
  }
  if (Status status = report_stalls(); !status.ok()) return status;
  return taken.value() || received.value() || answered.value() || progressed.value();
}

/// Whether anything can come from other ranks that somebody waits for.
bool Coordinator::expecting() const {
  if (!failure_.empty()) return control_.sending();
  const bool waiting = std::ranges::any_of(channels_, [](const auto& entry) {
    const Channel& channel = entry.second;
    return !channel.pending.empty() ||
           (channel.negotiator != nullptr && channel.negotiator->expects_members());
  });
  return waiting || leaving_ || control_.sending() || !executor_.idle();
}

void Coordinator::sleep(Clock::duration idle, bool gives_way) {
  if (idle < kAwakeFor) {
    if (gives_way) std::this_thread::yield();
    return;
  }
  if (control_.rings() && data_.rings()) return doorbell_.wait_for(StallMonitor::kInterval);
  doorbell_.wait_for(std::clamp<nanoseconds>(idle / kSleepFraction, kShortestSleep, kLongestSleep));
}

// ---- from this rank's users ----

Result<bool> Coordinator::take_submissions() {
  std::vector<Submission> submissions;
  std::vector<ChannelId> ended;
  bool leave = false;
  {
    const std::lock_guard lock(mutex_);
    submissions.swap(submitted_);
    ended.swap(ended_);
    // Nothing is submitted after the call.
    leave = leave_called_ && !leaving_;
  }
  std::map<ChannelId, RequestList> outbox;
  for (Submission& submission : submissions) take(std::move(submission), outbox);
  for (auto& [id, list] : outbox) {
    Channel& channel = channels_.at(id);
    if (channel.negotiator == nullptr) {
      if (Status status = send(channel.leader(), std::move(list)); !status.ok()) return status;
      continue;
    }
    for (Request& request : list.requests) channel.negotiator->add(rank_, std::move(request), now_);
  }
  for (const ChannelId plan : ended) {
    if (Status status = tell_end(plan); !status.ok()) return status;
  }
  if (Status status = relay_trace(); !status.ok()) return status;
  if (leave) {
    if (Status status = begin_leaving(); !status.ok()) return status;
  }
  return leave || !submissions.empty() || !ended.empty();
}

/// After what was submitted of the plan. A failure has ended it already.
Status Coordinator::tell_end(ChannelId plan) {
  if (!failure_.empty()) return {};
  const PlanEnd plan_end{rank_, plans_.progress(plan)};
  const int leader = channels_.at(process_set_of(plan)).leader();
  return leader == rank_ ? handle(rank_, plan_end) : send(leader, plan_end);
}

/// Checks what can be checked here, and puts the request into the outbox.
void Coordinator::take(Submission submission, std::map<ChannelId, RequestList>& outbox) {
  const auto refuse = [&submission](const std::string& reason) {
    submission.work->complete(
        Status::error(fmt::format("{}: {}", label(submission.request), reason)));
  };
  if (!failure_.empty()) return refuse(failure_);
  const auto found = channels_.find(submission.channel);
  if (found == channels_.end()) {
    return refuse(fmt::format("rank {} is not a member of process set {}", rank_,
                              submission.channel));
  }
  Channel& channel = found->second;
  if (submission.plan != 0) return plans_.start(std::move(submission), channel, rank_);
  Request& request = submission.request;
  if (channel.pending.contains(request.name)) {
    return refuse(fmt::format(
        "submitted twice on rank {}: the name is in use until the first operation is done", rank_));
  }
  if (request.refusal.empty()) request.refusal = check_request(request, channel.ranks);
  if (request.kind == CollectiveKind::AddProcessSet && submission.channel != kWorldChannel) {
    request.refusal = "a process set is made by all ranks, not within another set";
  }
  RequestList& list = outbox[submission.channel];
  list.channel = submission.channel;
  list.requests.push_back(request);
  if (!request.refusal.empty()) return refuse(request.refusal + fmt::format(" (rank {})", rank_));
  if (channel.pending.empty()) channel.quiet_since = now_;
  channel.pending.emplace(request.name, std::move(submission));
}

/// What comes after Leave is lost: rank 0 may be gone.
Status Coordinator::relay_trace() {
  if (relay_ == nullptr || leaving_) return {};
  for (std::string& lines : relay_->take()) {
    if (Status status = send(0, TraceLines{std::move(lines)}); !status.ok()) return status;
  }
  return {};
}

Status Coordinator::begin_leaving() {
  leaving_ = true;
  std::set<int> leaders;
  for (const auto& [id, channel] : channels_) leaders.insert(channel.leader());
  leaders.erase(rank_);
  // Who leaves because of a failure must not look like the cause of it.
  const Leave leave{plans_.progress()};
  const Message farewell = failure_.empty() ? Message(leave) : Message(Failure{failure_});
  for (const int leader : leaders) {
    if (Status status = send(leader, farewell); !status.ok()) return status;
  }
  return handle(rank_, leave);
}

// ---- from other ranks ----

Result<bool> Coordinator::receive() {
  bool received = false;
  while (true) {
    Result<std::optional<Envelope>> envelope = control_.receive();
    if (!envelope.ok()) return envelope.status();
    if (!envelope.value().has_value()) return received;
    received = true;
    const int source = envelope.value()->source;
    const Result<Message> message = decode(envelope.value()->bytes);
    if (!message.ok()) {
      return Status::error(fmt::format("from rank {}: {}", source, message.status().message()));
    }
    Status status = std::visit([&](const auto& m) { return handle(source, m); }, message.value());
    if (!status.ok()) return status;
  }
}

Status Coordinator::handle(int source, const RequestList& list) {
  const auto found = channels_.find(list.channel);
  if (found == channels_.end()) {
    early_requests_[list.channel].emplace_back(source, list);
    return {};
  }
  if (found->second.negotiator == nullptr) {
    return Status::error(
        fmt::format("rank {} takes rank {} for the leader of process set {}, which it is not",
                    source, rank_, list.channel));
  }
  for (const Request& request : list.requests) found->second.negotiator->add(source, request, now_);
  return {};
}

Status Coordinator::handle(int source, const ResponseList& list) {
  const auto found = channels_.find(list.channel);
  if (found == channels_.end() || found->second.leader() != source) {
    return Status::error(fmt::format("rank {} answers for process set {}, which it does not lead",
                                     source, list.channel));
  }
  return execute(list.channel, found->second, list.responses);
}

Status Coordinator::handle(int source, const Leave& leave) {
  left_.insert(source);
  for (auto& [id, channel] : channels_) {
    const bool member = std::ranges::binary_search(channel.ranks, source);
    if (channel.negotiator == nullptr || !member) continue;
    channel.negotiator->leave(source);
    const MemberLeft member_left{id, source, leave.plans};
    // Also to those that have left: they may have operations in flight that this one will not
    // start.
    for (const int rank : channel.ranks) {
      if (rank == rank_ || rank == source) continue;
      if (Status status = send(rank, member_left); !status.ok()) return status;
    }
    if (Status status = handle(rank_, member_left); !status.ok()) return status;
  }
  return {};
}

Status Coordinator::handle(int /*source*/, const MemberLeft& member_left) {
  plans_.end(member_left);
  return {};
}

Status Coordinator::handle(int /*source*/, const PlanEnd& plan_end) {
  const Channel& set = channels_.at(process_set_of(plan_end.plan.channel));
  for (const int rank : set.ranks) {
    if (set.negotiator == nullptr || rank == rank_) continue;
    if (Status status = send(rank, plan_end); !status.ok()) return status;
  }
  plans_.end(plan_end, set);
  return {};
}

Status Coordinator::handle(int /*source*/, const AllLeft& all_left) {
  all_left_.insert(all_left.channel);
  return {};
}

Status Coordinator::handle(int source, const Failure& failure) {
  fail(fmt::format("rank {} has failed: {}", source, failure.reason), /*tell_others=*/false);
  return {};
}

Status Coordinator::handle(int /*source*/, const StallNotice& notice) {
  const auto found = channels_.find(notice.channel);
  if (found != channels_.end()) found->second.quiet_since = now_;
  return {};
}

Status Coordinator::handle(int source, const Hello& /*hello*/) {
  return Status::error(fmt::format("rank {} starts anew while the others are running", source));
}

Status Coordinator::handle(int source, const Welcome& /*welcome*/) {
  return Status::error(fmt::format("rank {} starts anew while the others are running", source));
}

Status Coordinator::handle(int /*source*/, const TraceLines& trace) {
  if (trace_ != nullptr) trace_->relayed(trace.lines);
  return {};
}

// ---- agreement ----

/// Sends what this rank, as a leader, has to answer.
Result<bool> Coordinator::answer() {
  bool answered = false;
  // An answer may add a channel, which leaves the others where they are.
  for (auto& [id, channel] : channels_) {
    if (channel.negotiator == nullptr) continue;
    std::vector<std::vector<Response>> replies;
    if (channel.negotiator->has_replies()) replies = channel.negotiator->take_replies();
    for (std::size_t member = 0; member < replies.size(); ++member) {
      if (replies[member].empty()) continue;
      answered = true;
      const int destination = channel.ranks[member];
      Status status = destination == rank_
                          ? execute(id, channel, replies[member])
                          : send(destination, ResponseList{id, std::move(replies[member])});
      if (!status.ok()) return status;
    }
    // After the last replies.
    if (!all_left_.contains(id) && std::ranges::includes(left_, channel.ranks)) {
      answered = true;
      if (Status status = release_members(id, channel); !status.ok()) return status;
    }
  }
  return answered;
}

Status Coordinator::release_members(ChannelId id, const Channel& channel) {
  all_left_.insert(id);
  for (const int rank : channel.ranks) {
    if (rank == rank_) continue;
    if (Status status = send(rank, AllLeft{id}); !status.ok()) return status;
  }
  return {};
}

/// Ends the operations that failed, and hands the others to the executor as one batch.
Status Coordinator::execute(ChannelId id, Channel& channel,
                            const std::vector<Response>& responses) {
  std::vector<AgreedSubmission> batch;
  for (const Response& response : responses) {
    const auto found = channel.pending.find(response.name);
    if (found == channel.pending.end()) {
      return Status::error(
          fmt::format("'{}' was agreed on, but rank {} did not submit it", response.name, rank_));
    }
    Submission submission = std::move(found->second);
    channel.pending.erase(found);
    if (!response.error.empty()) {
      submission.work->complete(Status::error(response.error));
      continue;
    }
    if (trace_ != nullptr) trace_->negotiated(submission, Clock::now());
    switch (submission.request.kind) {
      case CollectiveKind::Barrier:
        submission.work->complete({});
        break;
      case CollectiveKind::AddProcessSet:
        if (Status status = complete_process_set(submission, response); !status.ok()) return status;
        break;
      case CollectiveKind::Allreduce:
      case CollectiveKind::Broadcast:
      case CollectiveKind::Allgather:
      case CollectiveKind::Reducescatter:
      case CollectiveKind::Alltoall:
        batch.push_back({std::move(submission), response});
        break;
    }
  }
  if (!batch.empty()) executor_.enqueue(id, std::move(batch));
  return {};
}

Status Coordinator::complete_process_set(const Submission& submission, const Response& response) {
  const std::vector<int> ranks(submission.request.shape.begin(), submission.request.shape.end());
  const bool member = std::ranges::binary_search(ranks, rank_);
  if (member) add_channel(response.new_channel, ranks);
  submission.work->complete({}, {.new_channel = response.new_channel});
  // The new leader may not have been told.
  if (member && leaving_ && ranks.front() != rank_) return send(ranks.front(), Leave{});
  return {};
}

void Coordinator::add_channel(ChannelId id, std::vector<int> ranks) {
  Channel channel{.ranks = ranks};
  if (channel.leader() == rank_) {
    channel.negotiator = std::make_unique<Negotiator>(ranks);
    for (const auto& [source, list] : early_requests_[id]) {
      for (const Request& request : list.requests) channel.negotiator->add(source, request, now_);
    }
    early_requests_.erase(id);
    for (const int gone : left_) {
      if (std::ranges::binary_search(ranks, gone)) channel.negotiator->leave(gone);
    }
  }
  const int member = channel.member(rank_);
  channels_.emplace(id, std::move(channel));
  executor_.add_channel(id, std::move(ranks), member);
}

// ---- sending and failing ----

Status Coordinator::report_stalls() {
  const Result<StallMonitor::Notices> notices = stalls_.check(channels_, executor_, now_);
  if (!notices.ok()) return notices.status();
  for (const auto& [rank, notice] : notices.value()) {
    if (Status status = send(rank, notice); !status.ok()) return status;
  }
  return {};
}

Status Coordinator::send(int destination, const Message& message) {
  return control_.send(destination, encode(message));
}

/// The first failure wins, and lasts.
void Coordinator::fail(const std::string& reason, bool tell_others) {
  if (failure_.empty()) {
    failure_ = reason;
    logger_.error("{}", reason);
    for (int rank = 0; tell_others && rank < control_.topology().size; ++rank) {
      // Best effort: the plane that would carry the news may be what has failed.
      if (rank != rank_) (void)send(rank, Failure{reason});
    }
  }
  complete_pending(failure_);
  executor_.fail(failure_);
}

void Coordinator::complete_pending(const std::string& error) {
  for (auto& [id, channel] : channels_) {
    for (const auto& [name, submission] : channel.pending) {
      submission.work->complete(
          Status::error(fmt::format("{}: {}", label(submission.request), error)));
    }
    channel.pending.clear();
  }
}

}  // namespace kolo::core
