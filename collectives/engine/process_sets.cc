#include "engine/process_sets.h"

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <numeric>

#include "base/names.h"
#include "engine/validate.h"

namespace kolo::core {
namespace {

std::vector<int> all_ranks(int size) {
  std::vector<int> ranks(static_cast<std::size_t>(size));
  std::iota(ranks.begin(), ranks.end(), 0);
  return ranks;
}

/// Where an operation would read or write.
bool lacks_memory(const Submission& submission) {
  const CollectiveKind kind = submission.request.kind;
  if (kind == CollectiveKind::Barrier || kind == CollectiveKind::AddProcessSet) return false;
  const bool writes = kind == CollectiveKind::Allreduce || kind == CollectiveKind::Broadcast;
  const bool lacks = (kind != CollectiveKind::Broadcast && submission.input == nullptr) ||
                     (writes && submission.output == nullptr);
  return lacks && element_count(submission.request.shape) > 0;
}

}  // namespace

ProcessSets::ProcessSets(const Topology& topology, const DataPlane& data, Executor& executor,
                         Plans& plans, EngineTrace* trace, Send send)
    : rank_(topology.rank),
      data_(data),
      executor_(executor),
      plans_(plans),
      trace_(trace),
      send_(std::move(send)) {
  add_channel(kWorldChannel, all_ranks(topology.size));
}

// ---- what this rank submits ----

Result<Executor::RunNow> ProcessSets::run_now(const BlockingAllreduce& allreduce,
                                              Executor::Looks looks) {
  const auto found = channels_.find(allreduce.process_set);
  if (!end_.empty() || found == channels_.end() || !refused_.empty()) return Executor::RunNow();
  RecurringNames& names = found->second.recurring;
  RecurringNames::Name* const name = names.find(allreduce.name);
  if (name == nullptr || name->in_use() || !allreduce.is(name->request)) return Executor::RunNow();
  Result<Executor::RunNow> ran =
      executor_.run_now(plan_channel(allreduce.process_set, name->plan), allreduce, looks);
  if (!ran.ok()) return ran;
  if (ran.value().state == Executor::RunNow::State::Declined) names.remove(name->request.name);
  if (ran.value().state == Executor::RunNow::State::Late) name->work = ran.value().work;
  return ran;
}

Status ProcessSets::hand_in(std::span<SubmissionPtr> submissions, Clock::time_point now) {
  Outbox outbox{.most = submissions.size() + refused_.size()};
  take_turns(outbox);
  for (SubmissionPtr& submission : submissions) take(std::move(submission), outbox, now);
  return send_off(std::move(outbox), now);
}

Status ProcessSets::send_off(Outbox outbox, Clock::time_point now) {
  for (auto& [id, list] : outbox.lists) {
    Channel& channel = channels_.at(id);
    if (channel.negotiator == nullptr) {
      const int leader = channel.leader();
      if (Status status = send_({&leader, 1}, std::move(list)); !status.ok()) return status;
      continue;
    }
    channel.negotiator->add(rank_, std::make_shared<const RequestList>(std::move(list)), now);
  }
  return {};
}

/// Their names do not recur any more.
Status ProcessSets::hand_in_again(std::vector<SubmissionPtr> declined, Clock::time_point now) {
  // This rank's own part has been handed in already, in another form.
  std::erase_if(declined, [](const SubmissionPtr& submission) { return submission->declines; });
  for (const SubmissionPtr& submission : declined) {
    channels_.at(submission->channel).recurring.remove(submission->request.name);
    submission->plan = 0;
  }
  if (!left_.contains(rank_)) {
    // Before what was refused because their names were in use.
    Outbox outbox{.most = declined.size()};
    for (SubmissionPtr& submission : declined) take(std::move(submission), outbox, now);
    return send_off(std::move(outbox), now);
  }
  for (const SubmissionPtr& submission : declined) {
    submission->work->complete(Status::error(fmt::format(
        "{}: kolo::shutdown() was called before it was agreed on", label(submission->request))));
  }
  return {};
}

/// Checks what can be checked here, and puts the request into the outbox.
void ProcessSets::take(SubmissionPtr taken, Outbox& outbox, Clock::time_point now) {
  ++changes_;
  Submission& submission = *taken;
  const auto refuse = [&submission](const std::string& reason) {
    submission.work->complete(
        Status::error(fmt::format("{}: {}", label(submission.request), reason)));
  };
  if (!end_.empty()) return refuse(end_);
  const auto found = channels_.find(submission.channel);
  if (found == channels_.end()) {
    return refuse(
        fmt::format("rank {} is not a member of process set {}", rank_, submission.channel));
  }
  Channel& channel = found->second;
  if (submission.plan != 0) return plans_.start(std::move(taken), channel, rank_);
  Request& request = submission.request;
  if (channel.in_use(request.name)) {
    request.refusal =
        "submitted twice: the name is in use until the first operation is done. Wait for that, or "
        "give each a name of its own";
    refuse(request.refusal + fmt::format(" (rank {})", rank_));
    refused_.push_back({submission.channel, std::move(request)});
    return;
  }
  RecurringNames::Name* const recurring = channel.recurring.find(request.name);
  if (recurring != nullptr && request == recurring->request) {
    submission.plan = recurring->plan;
    recurring->work = submission.work;
    return plans_.start(std::move(taken), channel, rank_);
  }
  if (request.refusal.empty()) request.refusal = check_request(request, channel.ranks);
  if (request.kind == CollectiveKind::AddProcessSet && submission.channel != kWorldChannel) {
    request.refusal = "a process set is made by all ranks, not within another set";
  }
  if (request.refusal.empty() && lacks_memory(submission)) {
    request.refusal = "its tensor has no memory";
  }
  ask(submission.channel, channel, request, outbox).awaited = submission.awaited;
  if (!request.refusal.empty()) return refuse(request.refusal + fmt::format(" (rank {})", rank_));
  if (channel.pending.empty()) channel.quiet_since = now;
  channel.pending.emplace(request.name, std::move(taken));
}

/// What was refused because its name was in use, and is not any more.
void ProcessSets::take_turns(Outbox& outbox) {
  std::erase_if(refused_, [&](const Refused& refused) {
    Channel& channel = channels_.at(refused.channel);
    if (channel.in_use(refused.request.name)) return false;
    ask(refused.channel, channel, refused.request, outbox);
    return true;
  });
}

/// Puts it into the outbox. If its name recurs, that is over.
Request& ProcessSets::ask(ChannelId id, Channel& channel, const Request& request, Outbox& outbox) {
  ++changes_;
  if (!request.refusal.empty()) ++channel.failures[request.name];
  if (const auto* const recurring = channel.recurring.find(request.name); recurring != nullptr) {
    plans_.start(make_submission({.channel = id,
                                  .plan = recurring->plan,
                                  .request = recurring->request,
                                  .declines = true}),
                 channel, rank_);
    channel.recurring.remove(request.name);
  }
  RequestList& list = outbox.lists[id];
  list.channel = id;
  if (list.requests.empty()) list.requests.reserve(outbox.most);
  return list.requests.emplace_back(request);
}

bool ProcessSets::expecting() const {
  return !refused_.empty() || std::ranges::any_of(channels_, [](const auto& entry) {
    const Channel& channel = entry.second;
    return !channel.pending.empty() ||
           (channel.negotiator != nullptr && channel.negotiator->expects_members());
  });
}

std::optional<AwaitedOperation> ProcessSets::find(const Work* work) const {
  for (const auto& [id, channel] : channels_) {
    for (const auto& [name, submission] : channel.pending) {
      if (submission->work.get() != work) continue;
      return AwaitedOperation{.channel = id,
                              .name = submission->request.name,
                              .number = channel.go_aheads,
                              .failures = channel.failures_of(submission->request.name),
                              .ranks = channel.ranks,
                              .words = spoken(submission->request)};
    }
  }
  const std::optional<Executor::Place> place = executor_.find(work);
  // What was agreed on, all have submitted. Where this rank ends a plan, so do its operations.
  if (!place || place->channel < kMostProcessSets || plans_.has_ended_here(place->channel)) {
    return std::nullopt;
  }
  return AwaitedOperation{.channel = place->channel,
                          .name = {},
                          .number = place->sequence,
                          .failures = 0,
                          .ranks = channels_.at(process_set_of(place->channel)).ranks,
                          .words = spoken(*place->request)};
}

bool ProcessSets::lacks(const AwaitedOperation& operation) const {
  const auto set = channels_.find(process_set_of(operation.channel));
  // News are on their way: of the set, or of what is done before a refusal takes its turn.
  if (set == channels_.end() || !refused_.empty()) return false;
  const Channel& channel = set->second;
  if (!operation.name.empty()) {
    if (operation.number != channel.go_aheads) return false;
    const std::uint64_t pending = channel.pending.contains(operation.name) ? 1 : 0;
    return channel.failures_of(operation.name) + pending <= operation.failures;
  }
  const ChannelId plan = operation.channel;
  if (plans_.has_ended_here(plan)) return false;
  if (const auto submitted = plans_.submitted(plan)) return *submitted <= operation.number;
  // Nothing of it was submitted; unless it is a name's that this rank does not use any more.
  return !belongs_to_name(plan) || channel.recurring.has(plan / kMostProcessSets);
}

void ProcessSets::end(const std::string& error) {
  end_ = error;
  refused_.clear();
  for (auto& [id, channel] : channels_) {
    for (const auto& [name, submission] : channel.pending) {
      submission->work->complete(
          Status::error(fmt::format("{}: {}", label(submission->request), error)));
    }
    channel.pending.clear();
  }
}

// ---- what the leaders answer ----

Status ProcessSets::handle(int source, std::shared_ptr<const RequestList> list,
                           Clock::time_point now) {
  const auto found = channels_.find(list->channel);
  if (found == channels_.end()) {
    early_requests_[list->channel].emplace_back(source, std::move(list));
    return {};
  }
  if (found->second.negotiator == nullptr) {
    return Status::error(
        fmt::format("rank {} takes rank {} for the leader of process set {}, which it is not",
                    source, rank_, list->channel));
  }
  found->second.negotiator->add(source, std::move(list), now);
  return {};
}

Status ProcessSets::handle(int source, const ResponseList& list) {
  const auto found = channels_.find(list.channel);
  if (found == channels_.end() || found->second.leader() != source) {
    return Status::error(fmt::format("rank {} answers for process set {}, which it does not lead",
                                     source, list.channel));
  }
  return execute(list.channel, found->second, list.responses);
}

Result<bool> ProcessSets::answer() {
  bool answered = false;
  // An answer may add a channel, which leaves the others where they are.
  for (auto& [id, channel] : channels_) {
    if (channel.negotiator == nullptr || !channel.negotiator->has_replies()) continue;
    answered = true;
    Negotiator::Replies replies = channel.negotiator->take_replies();
    Status status = tell(id, channel, channel.ranks, std::move(replies.to_all));
    for (std::size_t member = 0; status.ok() && member < channel.ranks.size(); ++member) {
      status = tell(id, channel, {&channel.ranks[member], 1}, std::move(replies.to_one[member]));
    }
    if (!status.ok()) return status;
  }
  return answered;
}

/// What this rank has answered as the leader, also to itself.
Status ProcessSets::tell(ChannelId id, Channel& channel, std::span<const int> ranks,
                         std::vector<Response> responses) {
  if (responses.empty()) return {};
  const ResponseList list{id, std::move(responses)};
  if (Status status = send_(ranks, list); !status.ok()) return status;
  return std::ranges::find(ranks, rank_) == ranks.end() ? Status()
                                                        : execute(id, channel, list.responses);
}

std::vector<ChannelId> ProcessSets::leave(int rank) {
  left_.insert(rank);
  if (rank == rank_) refused_.clear();
  std::vector<ChannelId> led;
  for (auto& [id, channel] : channels_) {
    const bool member = std::ranges::binary_search(channel.ranks, rank);
    if (channel.negotiator == nullptr || !member) continue;
    channel.negotiator->leave(rank);
    led.push_back(id);
  }
  return led;
}

/// Ends the operations that failed, and hands the others to the executor as one batch.
Status ProcessSets::execute(ChannelId id, Channel& channel,
                            const std::vector<Response>& responses) {
  ++changes_;
  std::vector<AgreedSubmission> batch;
  for (const Response& response : responses) {
    const auto found = channel.pending.find(response.name);
    if (found == channel.pending.end()) {
      return Status::error(fmt::format("'{}' was agreed on, but rank {} did not submit it",
                                       shortened(response.name), rank_));
    }
    SubmissionPtr owned = std::move(found->second);
    channel.pending.erase(found);
    const Submission& submission = *owned;
    if (!response.error.empty()) {
      ++channel.failures[response.name];
      submission.work->complete(Status::error(response.error));
      continue;
    }
    ++channel.go_aheads;
    if (trace_ != nullptr) trace_->negotiated(submission, Clock::now());
    if (response.plan != 0) channel.recurring.add(submission.request, response.plan);
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
        batch.push_back({std::move(owned), response.first_dimensions});
        break;
    }
  }
  if (!batch.empty()) executor_.enqueue(id, std::move(batch));
  return {};
}

Status ProcessSets::complete_process_set(const Submission& submission, const Response& response) {
  const std::vector<int> ranks(submission.request.shape.begin(), submission.request.shape.end());
  const bool member = std::ranges::binary_search(ranks, rank_);
  if (member) add_channel(response.new_channel, ranks);
  submission.work->complete({}, {.new_channel = response.new_channel});
  // The new leader may not have been told.
  const bool leaving = left_.contains(rank_);
  if (member && leaving) return send_({&ranks.front(), 1}, Leave{plans_.progress()});
  return {};
}

void ProcessSets::add_channel(ChannelId id, std::vector<int> ranks) {
  Channel channel{.ranks = ranks};
  if (channel.leader() == rank_) {
    channel.negotiator = std::make_unique<Negotiator>(ranks, data_.carries_declines(ranks));
    const Clock::time_point now = Clock::now();
    for (const auto& [source, list] : early_requests_[id]) {
      channel.negotiator->add(source, list, now);
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

}  // namespace kolo::core
