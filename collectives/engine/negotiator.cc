#include "engine/negotiator.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cassert>
#include <utility>

#include "engine/rows.h"
#include "engine/validate.h"

namespace kolo::core {
namespace {

std::string left_error(const Request& request, int rank, bool submitted) {
  return fmt::format("{}: {}", label(request),
                     submitted ? withdrawal_error(rank) : departure_error(rank));
}

/// Whether agreeing on it takes no more than that all ask for the same.
bool is_plain(const Request& request) {
  return request.refusal.empty() &&
         (request.kind == CollectiveKind::Allreduce || request.kind == CollectiveKind::Broadcast ||
          request.kind == CollectiveKind::Reducescatter || request.kind == CollectiveKind::Barrier);
}

std::string refusal_error(const Request& request, int rank) {
  return fmt::format("{}: refused on rank {}: {}", label(request), rank, request.refusal);
}

}  // namespace

Negotiator::Negotiator(std::vector<int> ranks, bool names_recur)
    : ranks_(std::move(ranks)), replies_(ranks_.size()) {
  if (names_recur) recurrence_.emplace();
}

std::size_t Negotiator::member_of(int rank) const {
  const auto found = std::ranges::lower_bound(ranks_, rank);
  assert(found != ranks_.end() && *found == rank);
  return static_cast<std::size_t>(found - ranks_.begin());
}

void Negotiator::add(int rank, std::shared_ptr<const RequestList> list, Clock::time_point now) {
  if (joins_whole(rank, list, now)) return;
  take_apart();
  for (const Request& request : list->requests) add(rank, request, now);
}

bool Negotiator::joins_whole(int rank, const std::shared_ptr<const RequestList>& list,
                             Clock::time_point now) {
  if (!whole_) {
    const bool alone = operations_.empty() && left_.empty();
    const bool plain = !list->requests.empty() && std::ranges::all_of(list->requests, is_plain);
    if (!alone || !plain) return false;
    whole_ = {.list = list, .since = now, .ranks = {}};
  } else if (std::ranges::find(whole_->ranks, rank) != whole_->ranks.end() ||
             (list != whole_->list && *list != *whole_->list)) {
    return false;
  }
  whole_->ranks.push_back(rank);
  if (whole_->ranks.size() < ranks_.size()) return true;
  whole_.reset();
  for (const Request& request : list->requests) go_ahead(request, request.awaited);
  return true;
}

void Negotiator::take_apart() {
  const std::optional<Whole> whole = std::exchange(whole_, std::nullopt);
  if (!whole) return;
  for (const int rank : whole->ranks) {
    for (const Request& request : whole->list->requests) add(rank, request, whole->since);
  }
}

bool Negotiator::expects_members() const {
  return joined_by_leader_ > 0 ||
         (whole_ && std::ranges::find(whole_->ranks, ranks_.front()) != whole_->ranks.end());
}

void Negotiator::add(int rank, const Request& request, Clock::time_point now) {
  const std::size_t member = member_of(rank);
  Operation& operation = operation_for(member, request, rank, now);
  count(operation, member);
  if (!request.refusal.empty()) {
    fail(operation, refusal_error(request, rank));
  } else {
    operation.waiting.push_back(member);
    operation.awaited &= request.awaited;
    if (operation.error.empty()) {
      operation.error = find_mismatch(operation.first, operation.first_rank, request, rank);
    }
    if (!operation.error.empty()) {
      fail(operation, operation.error);
    } else {
      if (request.kind == CollectiveKind::Allgather) {
        operation.rows[member] = {request.shape.front()};
      } else if (request.kind == CollectiveKind::Alltoall) {
        operation.rows[member] = splits_of(request, ranks_.size());
      }
      if (operation.submissions == ranks_.size()) conclude(operation);
    }
  }
  if (operation.submissions == ranks_.size()) forget_ended(request.name);
}

Negotiator::Operation& Negotiator::operation_for(std::size_t member, const Request& request,
                                                 int rank, Clock::time_point now) {
  std::vector<Operation>& operations = operations_[request.name];
  for (Operation& operation : operations) {
    if (!operation.submitted[member]) return operation;
  }
  Operation operation;
  operation.first = request;
  operation.first_rank = rank;
  operation.since = now;
  operation.submitted.resize(ranks_.size());
  operation.waiting.reserve(ranks_.size());
  const bool ragged =
      request.kind == CollectiveKind::Allgather || request.kind == CollectiveKind::Alltoall;
  if (ragged) operation.rows.resize(ranks_.size());
  for (const int gone : left_) {
    count(operation, member_of(gone));
    fail(operation, left_error(request, gone, /*submitted=*/false));
  }
  return operations.emplace_back(std::move(operation));
}

void Negotiator::count(Operation& operation, std::size_t member) {
  operation.submitted[member] = true;
  ++operation.submissions;
  if (member == 0) ++joined_by_leader_;
}

void Negotiator::fail(Operation& operation, const std::string& error) {
  if (operation.error.empty()) operation.error = error;
  has_replies_ |= !operation.waiting.empty();
  for (const std::size_t member : operation.waiting) {
    replies_.to_one[member].push_back({.name = operation.first.name, .error = operation.error});
  }
  operation.waiting.clear();
}

/// All have asked for the same, and need be told nothing else.
void Negotiator::go_ahead(const Request& request, bool awaited, Response response) {
  response.name = request.name;
  if (recurrence_) response.plan = recurrence_->find(request, awaited);
  has_replies_ = true;
  replies_.to_all.push_back(std::move(response));
}

/// All have asked for the same.
void Negotiator::conclude(Operation& operation) {
  Response response;
  if (operation.first.kind == CollectiveKind::AddProcessSet) {
    if (next_channel_ == kMostProcessSets) {
      return fail(operation,
                  fmt::format("{}: there are {} process sets already besides that of all "
                              "ranks, which is the most: make sets once, and keep them",
                              label(operation.first), kMostProcessSets - 1));
    }
    response.new_channel = next_channel_++;
  }
  if (operation.first.kind != CollectiveKind::Alltoall) {
    response.first_dimensions = first_dimensions(operation, 0);
    return go_ahead(operation.first, operation.awaited, std::move(response));
  }
  has_replies_ = true;
  response.name = operation.first.name;
  for (std::size_t member = 0; member < ranks_.size(); ++member) {
    response.first_dimensions = first_dimensions(operation, member);
    replies_.to_one[member].push_back(response);
  }
}

/// As a member is told them; an all-gather's are the same for all.
std::vector<std::int64_t> Negotiator::first_dimensions(const Operation& operation,
                                                       std::size_t member) {
  const bool to_all = operation.first.kind == CollectiveKind::Allgather;
  std::vector<std::int64_t> first_dimensions;
  for (const std::vector<std::int64_t>& given : operation.rows) {
    first_dimensions.push_back(to_all ? given.front() : given[member]);
  }
  return first_dimensions;
}

void Negotiator::forget_ended(const std::string& name) {
  const auto found = operations_.find(name);
  if (found == operations_.end()) return;
  joined_by_leader_ -= std::erase_if(
      found->second, [this](const Operation& o) { return o.submissions == ranks_.size(); });
  if (found->second.empty()) operations_.erase(found);
}

void Negotiator::leave(int rank) {
  take_apart();
  left_.insert(rank);
  const std::size_t member = member_of(rank);
  std::vector<std::string> names;
  for (auto& [name, operations] : operations_) {
    names.push_back(name);
    for (Operation& operation : operations) {
      fail(operation, left_error(operation.first, rank, operation.submitted[member]));
      if (!operation.submitted[member]) count(operation, member);
    }
  }
  for (const std::string& name : names) forget_ended(name);
}

Negotiator::Replies Negotiator::take_replies() {
  has_replies_ = false;
  return std::exchange(replies_, Replies(ranks_.size()));
}

std::vector<Negotiator::Stall> Negotiator::stalled(Clock::time_point now,
                                                   std::chrono::duration<double> age) {
  if (whole_ && now - whole_->since >= age) take_apart();
  std::vector<Stall> stalls;
  for (const auto& [name, operations] : operations_) {
    const auto operation = std::ranges::find_if(operations, is_waiting);
    if (operation == operations.end() || now - operation->since < age) continue;
    Stall stall{.name = name, .kind = operation->first.kind, .age = now - operation->since};
    for (std::size_t member = 0; member < ranks_.size(); ++member) {
      (operation->submitted[member] ? stall.submitted : stall.missing).push_back(ranks_[member]);
    }
    stalls.push_back(std::move(stall));
  }
  std::ranges::sort(stalls, {}, &Stall::name);
  return stalls;
}

void Negotiator::fail(const std::string& name, const std::string& error) {
  take_apart();
  const auto found = operations_.find(name);
  if (found == operations_.end()) return;
  const auto operation = std::ranges::find_if(found->second, is_waiting);
  if (operation != found->second.end()) fail(*operation, error);
}

}  // namespace kolo::core
