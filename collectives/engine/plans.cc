#include "engine/plans.h"

#include <algorithm>
#include <utility>

#include "engine/validate.h"

namespace kolo::core {

void Plans::start(Submission submission, const Channel& set, int rank) {
  const ChannelId id = plan_channel(submission.channel, submission.plan);
  if (!executor_.contains(id)) {
    executor_.add_channel(id, set.ranks, set.member(rank));
    for (const MemberLeft& departure : departures_[submission.channel]) apply(departure);
  }
  Response response{.name = submission.request.name};
  if (submission.request.kind == CollectiveKind::Allgather) {
    response.first_dimensions.assign(set.ranks.size(), submission.request.shape.front());
  }
  std::vector<AgreedSubmission> batch;
  batch.push_back({std::move(submission), std::move(response)});
  executor_.enqueue(id, std::move(batch));
}

std::vector<PlanProgress> Plans::progress() const {
  std::vector<PlanProgress> plans = executor_.enqueued();
  std::erase_if(plans, [](const PlanProgress& plan) { return plan.channel < kMostProcessSets; });
  return plans;
}

void Plans::end(const MemberLeft& member_left) {
  departures_[member_left.channel].push_back(member_left);
  apply(member_left);
}

void Plans::apply(const MemberLeft& member_left) {
  for (const PlanProgress& plan : progress()) {
    if (process_set_of(plan.channel) != member_left.channel) continue;
    const auto theirs =
        std::ranges::find(member_left.plans, plan.channel, &PlanProgress::channel);
    const bool known = theirs != member_left.plans.end();
    executor_.end(plan.channel, known ? theirs->operations : 0, departure_error(member_left.rank));
  }
}

}  // namespace kolo::core
