#include "data/inproc_data.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cassert>
#include <cstddef>
#include <cstring>
#include <string>

#include "data/reduce.h"
#include "data/well_formed.h"

namespace kolo::core {
namespace {

std::byte* bytes_of(const Collective& collective) {
  return static_cast<std::byte*>(collective.output);
}

void copy(void* to, const void* from, std::size_t bytes) {
  if (bytes != 0 && to != from) std::memmove(to, from, bytes);
}

void allreduce(const std::vector<Collective>& members) {
  const Collective& any = members.front();
  std::vector<void*> outputs;
  for (const Collective& member : members) outputs.push_back(member.output);
  const std::vector<const void*> inputs(outputs.begin(), outputs.end());
  reduce(any.dtype, any.op, inputs, outputs, any.count, any.prescale, any.postscale);
}

void broadcast(const std::vector<Collective>& members) {
  const Collective& root = members[static_cast<std::size_t>(members.front().root_member)];
  const std::size_t bytes = static_cast<std::size_t>(root.count) * size_of(root.dtype);
  for (const Collective& member : members) copy(member.output, root.output, bytes);
}

void allgather(const std::vector<Collective>& members) {
  for (const Collective& to : members) {
    std::size_t offset = 0;
    for (const Collective& from : members) {
      const std::int64_t count = from.counts[static_cast<std::size_t>(from.member)];
      const std::size_t bytes = static_cast<std::size_t>(count) * size_of(from.dtype);
      copy(bytes_of(to) + offset, from.input, bytes);
      offset += bytes;
    }
  }
}

const std::byte* input_of(const Collective& collective, std::int64_t element) {
  return static_cast<const std::byte*>(collective.input) +
         element * static_cast<std::int64_t>(size_of(collective.dtype));
}

void reducescatter(const std::vector<Collective>& members) {
  std::int64_t begin = 0;
  for (const Collective& to : members) {
    std::vector<const void*> inputs;
    for (const Collective& from : members) inputs.push_back(input_of(from, begin));
    reduce(to.dtype, to.op, inputs, {&to.output, 1}, output_count(to), to.prescale, to.postscale);
    begin += output_count(to);
  }
}

void alltoall(const std::vector<Collective>& members) {
  for (const Collective& to : members) {
    const auto own = static_cast<std::size_t>(to.member);
    std::size_t offset = 0;
    for (const Collective& from : members) {
      const auto bytes = static_cast<std::size_t>(from.splits[own]) * size_of(from.dtype);
      copy(bytes_of(to) + offset, input_of(from, elements_before(from.splits, own)), bytes);
      offset += bytes;
    }
  }
}

/// `arrived` must hold one entry per member, in member order.
void carry_out(const std::vector<Collective>& arrived) {
  switch (arrived.front().kind) {
    case CollectiveKind::Allreduce:
      return allreduce(arrived);
    case CollectiveKind::Broadcast:
      return broadcast(arrived);
    case CollectiveKind::Allgather:
      return allgather(arrived);
    case CollectiveKind::Reducescatter:
      return reducescatter(arrived);
    case CollectiveKind::Alltoall:
      return alltoall(arrived);
    case CollectiveKind::Barrier:
    case CollectiveKind::AddProcessSet:
      break;  // refused by well_formed()
  }
}

std::string describe(const Collective& collective) {
  std::string text =
      fmt::format("{} of {} {} among ranks {}", to_string(collective.kind), collective.count,
                  to_string(collective.dtype), fmt::join(collective.ranks, ","));
  if (reduces(collective.kind)) {
    text += fmt::format(", op {}, scales {} and {}", to_string(collective.op), collective.prescale,
                        collective.postscale);
  }
  if (collective.kind == CollectiveKind::Broadcast) {
    text += fmt::format(", root member {}", collective.root_member);
  }
  if (!collective.counts.empty()) {
    text += fmt::format(", counts {}", fmt::join(collective.counts, ","));
  }
  if (!collective.splits.empty()) {
    text += fmt::format(", splits {}", fmt::join(collective.splits, ","));
  }
  return text;
}

Status mismatch(const Collective& a, const Collective& b) {
  return Status::error(fmt::format(
      "ranks started different operations as number {} of channel {}: rank {}: {}; rank {}: {}",
      a.sequence, a.channel, rank_of(a), describe(a), rank_of(b), describe(b)));
}

/// Whether two members mean the same collective.
bool agree(const Collective& a, const Collective& b) {
  if (a.kind != b.kind || a.dtype != b.dtype || a.ranks != b.ranks || a.member == b.member) {
    return false;
  }
  const bool reduce_alike = a.op == b.op && a.prescale == b.prescale && a.postscale == b.postscale;
  switch (a.kind) {
    case CollectiveKind::Allreduce:
      return a.count == b.count && reduce_alike;
    case CollectiveKind::Broadcast:
      return a.count == b.count && a.root_member == b.root_member;
    case CollectiveKind::Allgather:
      return a.counts == b.counts;
    case CollectiveKind::Reducescatter:
      return a.counts == b.counts && reduce_alike;
    case CollectiveKind::Alltoall:
      return a.splits[static_cast<std::size_t>(b.member)] ==
                 b.counts[static_cast<std::size_t>(a.member)] &&
             b.splits[static_cast<std::size_t>(a.member)] ==
                 a.counts[static_cast<std::size_t>(b.member)];
    case CollectiveKind::Barrier:
    case CollectiveKind::AddProcessSet:
      break;
  }
  return false;
}

}  // namespace

class InprocOperation final : public Operation {
 public:
  InprocOperation(std::shared_ptr<InprocDataHub> hub, Collective collective)
      : hub_(std::move(hub)),
        collective_(std::move(collective)),
        meeting_(hub_->join(collective_)) {}

  ~InprocOperation() override { hub_->leave(collective_, meeting_); }

  InprocOperation(const InprocOperation&) = delete;
  InprocOperation& operator=(const InprocOperation&) = delete;

  Result<Progress> progress() override {
    const std::lock_guard lock(hub_->mutex_);
    if (meeting_->done) return Progress::Done;
    if (!meeting_->failure.ok()) return meeting_->failure;
    return Progress::Waiting;
  }

  std::vector<int> missing() const override {
    const std::lock_guard lock(hub_->mutex_);
    std::vector<int> missing;
    for (int member = 0; member < std::ssize(collective_.ranks); ++member) {
      if (std::ranges::find(meeting_->arrived, member, &Collective::member) ==
          meeting_->arrived.end()) {
        missing.push_back(member);
      }
    }
    return missing;
  }

 private:
  const std::shared_ptr<InprocDataHub> hub_;
  const Collective collective_;
  const std::shared_ptr<InprocDataHub::Meeting> meeting_;
};

class InprocDataPlane final : public DataPlane {
 public:
  InprocDataPlane(std::shared_ptr<InprocDataHub> hub, int rank, int size)
      : hub_(std::move(hub)), rank_(rank), size_(size) {}

  ~InprocDataPlane() override {
    const std::lock_guard lock(hub_->mutex_);
    hub_->doorbells_[static_cast<std::size_t>(rank_)] = nullptr;
  }

  InprocDataPlane(const InprocDataPlane&) = delete;
  InprocDataPlane& operator=(const InprocDataPlane&) = delete;

  Result<std::unique_ptr<Operation>> start(const Collective& collective) override {
    if (Status status = well_formed(collective, rank_, size_); !status.ok()) return status;
    return std::unique_ptr<Operation>(std::make_unique<InprocOperation>(hub_, collective));
  }

  bool rings() const override { return true; }

 private:
  const std::shared_ptr<InprocDataHub> hub_;
  const int rank_;
  const int size_;
};

std::shared_ptr<InprocDataHub> InprocDataHub::create(int size) {
  assert(size > 0);
  return std::shared_ptr<InprocDataHub>(new InprocDataHub(size));
}

std::unique_ptr<DataPlane> InprocDataHub::connect(int rank, Doorbell& own) {
  const std::lock_guard lock(mutex_);
  assert(rank >= 0 && rank < std::ssize(doorbells_));
  doorbells_[static_cast<std::size_t>(rank)] = &own;
  return std::make_unique<InprocDataPlane>(shared_from_this(), rank,
                                           static_cast<int>(doorbells_.size()));
}

std::shared_ptr<InprocDataHub::Meeting> InprocDataHub::join(const Collective& collective) {
  const std::lock_guard lock(mutex_);
  std::shared_ptr<Meeting>& entry = meetings_[{collective.channel, collective.sequence}];
  if (entry == nullptr) entry = std::make_shared<Meeting>();
  const std::shared_ptr<Meeting> meeting = entry;
  for (const Collective& other : meeting->arrived) {
    if (meeting->failure.ok() && !agree(other, collective)) {
      meeting->failure = mismatch(other, collective);
    }
  }
  // A member that has given up may come again before the others do.
  if (std::ranges::count(meeting->arrived, collective.member, &Collective::member) == 0) {
    meeting->arrived.push_back(collective);
  }
  const bool complete = meeting->arrived.size() == meeting->arrived.front().ranks.size();
  if (meeting->failure.ok() && complete) {
    std::ranges::sort(meeting->arrived, {}, &Collective::member);
    carry_out(meeting->arrived);
    meeting->done = true;
  }
  if (complete) meetings_.erase({collective.channel, collective.sequence});
  if (complete || !meeting->failure.ok()) ring(*meeting);
  return meeting;
}

void InprocDataHub::leave(const Collective& collective, const std::shared_ptr<Meeting>& meeting) {
  const std::lock_guard lock(mutex_);
  if (meeting->done || !meeting->failure.ok()) return;
  meeting->failure =
      Status::error(fmt::format("rank {} gave up operation {} of channel {}", rank_of(collective),
                                collective.sequence, collective.channel));
  ring(*meeting);
}

void InprocDataHub::ring(const Meeting& meeting) {
  for (const Collective& member : meeting.arrived) {
    Doorbell* const doorbell = doorbells_[static_cast<std::size_t>(rank_of(member))];
    if (doorbell != nullptr) doorbell->ring();
  }
}

}  // namespace kolo::core
