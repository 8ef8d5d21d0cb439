#include "engine/plans.h"

#include <algorithm>
#include <string>
#include <utility>

#include "engine/validate.h"

namespace kolo::core {

void Plans::start(SubmissionPtr submission, const Channel& set, int rank) {
  const ChannelId id = plan_channel(submission->channel, submission->plan);
  if (!executor_.contains(id)) {
    executor_.add_channel(id, set.ranks, set.member(rank));
    for (const MemberLeft& departure : departures_[submission->channel]) apply(departure);
    if (const auto ends = ends_.find(id); ends != ends_.end()) {
      for (const PlanEnd& plan_end : ends->second) apply(plan_end);
    }
  }
  std::vector<std::int64_t> first_dimensions;
  if (submission->request.kind == CollectiveKind::Allgather) {
    first_dimensions.assign(set.ranks.size(), submission->request.shape.front());
  }
  std::vector<AgreedSubmission> batch;
  batch.push_back({std::move(submission), std::move(first_dimensions)});
  executor_.enqueue(id, std::move(batch));
}

std::vector<PlanProgress> Plans::progress() const {
  std::vector<PlanProgress> plans = executor_.enqueued();
  std::erase_if(plans, [](const PlanProgress& plan) { return plan.channel < kMostProcessSets; });
  return plans;
}

PlanProgress Plans::progress(ChannelId plan) const { return {plan, submitted(plan).value_or(0)}; }

std::optional<std::uint64_t> Plans::submitted(ChannelId plan) const {
  const std::vector<PlanProgress> plans = progress();
  const auto found = std::ranges::find(plans, plan, &PlanProgress::channel);
  if (found == plans.end()) return std::nullopt;
  return found->operations;
}

PlanProgress Plans::end_here(ChannelId plan) {
  ended_here_.insert(plan);
  return progress(plan);
}

void Plans::end(const PlanEnd& plan_end, const Channel& set) {
  std::vector<PlanEnd>& ends = ends_[plan_end.plan.channel];
  ends.push_back(plan_end);
  apply(plan_end);
  if (ends.size() < set.ranks.size()) return;
  executor_.close(plan_end.plan.channel);
  ends_.erase(plan_end.plan.channel);
}

void Plans::apply(const PlanEnd& plan_end) {
  if (!executor_.contains(plan_end.plan.channel)) return;
  executor_.end(plan_end.plan.channel, plan_end.plan.operations, plan_end_error(plan_end.rank));
}

void Plans::end(const MemberLeft& member_left) {
  departures_[member_left.channel].push_back(member_left);
  apply(member_left);
}

bool Plans::has_ended(ChannelId plan, int rank) const {
  const auto ends = ends_.find(plan);
  return ends != ends_.end() && std::ranges::count(ends->second, rank, &PlanEnd::rank) > 0;
}

void Plans::apply(const MemberLeft& member_left) {
  const std::string error = departure_error(member_left.rank);
  for (const PlanProgress& plan : progress()) {
    if (process_set_of(plan.channel) != member_left.channel) continue;
    // Of a plan that it had ended, it may have nothing any more.
    if (has_ended(plan.channel, member_left.rank)) continue;
    const auto theirs =
        std::ranges::find(member_left.plans, plan.channel, &PlanProgress::channel);
    const bool known = theirs != member_left.plans.end();
    executor_.end(plan.channel, known ? theirs->operations : 0,
                  belongs_to_name(plan.channel) ? std::string() : error);
  }
}

}  // namespace kolo::core
