#include "engine/circle_watch.h"

#include <fmt/format.h>

#include <numeric>

namespace kolo::core {

using std::chrono::duration_cast;

CircleWatch::CircleWatch(const Config& config, int rank, const Waiters& waiters,
                         const ProcessSets& sets, Send send)
    : after_(duration_cast<Clock::duration>(config.circle_after)),
      interval_(after_ / 2),
      rank_(rank),
      waiters_(waiters),
      sets_(sets),
      send_(std::move(send)),
      detector_(rank) {}

Status CircleWatch::handle(int source, const Blocked& blocked) {
  detector_.hear(source, blocked);
  return {};
}

Status CircleWatch::handle(int source, const CircleQuestion& question) {
  questions_.emplace_back(source, question);
  urgent_ = true;
  return {};
}

Status CircleWatch::handle(int source, const CircleAnswer& answer) {
  detector_.hear(source, answer);
  urgent_ = true;
  return {};
}

Result<std::optional<std::string>> CircleWatch::look(Clock::time_point now, bool leaving) {
  urgent_ = false;
  const bool in_time = now >= next_look_;
  if (in_time) next_look_ = now + interval_;
  // Before what the threads wait for: they may go on at any time.
  const std::uint64_t epoch = waiters_.changes() + sets_.changes();
  const auto operations = leaving ? std::nullopt : awaited();
  if (epoch != epoch_ || !operations) {
    epoch_ = epoch;
    since_ = now;
    said_ = false;
    detector_.forget(rank_);
  }
  if (Status status = answer(operations); !status.ok()) return status;
  if (!operations) return std::optional<std::string>();
  if (!said_ && now - since_ >= after_) {
    said_ = true;
    const Blocked blocked{epoch_, *operations};
    std::vector<int> lower(static_cast<std::size_t>(rank_));
    std::iota(lower.begin(), lower.end(), 0);
    if (Status status = send_(lower, blocked); !status.ok()) return status;
    detector_.hear(rank_, blocked);
  }
  if (in_time) {
    for (const auto& [rank, question] : detector_.ask()) {
      if (Status status = send_({&rank, 1}, question); !status.ok()) return status;
    }
  }
  return detector_.find(
      [this](const AwaitedOperation& operation) { return sets_.lacks(operation); });
}

/// What all threads of this rank wait for; nothing when any may go on by itself.
std::optional<std::vector<AwaitedOperation>> CircleWatch::awaited() const {
  const auto waits = waiters_.all_wait();
  if (!waits) return std::nullopt;
  std::vector<AwaitedOperation> operations;
  for (const Waiters::Wait& wait : *waits) {
    std::optional<AwaitedOperation> operation = sets_.find(wait.work);
    if (!operation) return std::nullopt;
    if (!wait.activity.empty()) {
      operation->words = wait.activity;
    } else if (const std::int64_t step = waiters_.latest_step(); step >= 0) {
      operation->words += fmt::format(" after step {}", step);
    }
    operations.push_back(std::move(*operation));
  }
  return operations;
}

Status CircleWatch::answer(const std::optional<std::vector<AwaitedOperation>>& operations) {
  for (const auto& [source, question] : std::exchange(questions_, {})) {
    CircleAnswer answer{
        .number = question.number, .waits = operations && question.epoch == epoch_, .lacks = {}};
    for (const AwaitedOperation& operation : question.operations) {
      answer.lacks.push_back(answer.waits && sets_.lacks(operation) ? 1 : 0);
    }
    if (Status status = send_({&source, 1}, answer); !status.ok()) return status;
  }
  return {};
}

}  // namespace kolo::core
