#include "data/hierarchical_operations.h"

#include <algorithm>
#include <set>
#include <utility>

#include "data/hierarchical_data.h"

namespace kolo::core {
namespace {

// An operation's numbers on the near plane, two a chunk.
constexpr int kNearNumberBits = 24;

// Beyond the bits of a number that tell operations apart.
constexpr int kSliceShift = 48;

/// Who is alone goes by no other member's order: a set has members on the same host in one operation,
/// and each for itself in another.
int lane_of(std::size_t turn, std::size_t members) {
  const GpuLane together = turn == 0 ? GpuLane::FirstTurn : GpuLane::SecondTurn;
  return static_cast<int>(members == 1 ? GpuLane::Alone : together);
}

/// What one does that peers wait for must not go on: an operation of no elements does not fit
/// theirs.
void refuse(HierarchicalSteps::Step step) {
  step.collective.count = 0;
  step.collective.ready.clear();
  std::ranges::fill(step.collective.counts, 0);
  (void)step.plane->start(step.collective);
}

}  // namespace

HostLayout::HostLayout(const Collective& collective, const std::vector<int>& host_of_rank) {
  std::vector<int> seen;
  for (int member = 0; member < std::ssize(collective.ranks); ++member) {
    const int rank = collective.ranks[static_cast<std::size_t>(member)];
    const int host = host_of_rank[static_cast<std::size_t>(rank)];
    const auto index = static_cast<std::size_t>(std::ranges::find(seen, host) - seen.begin());
    if (index == seen.size()) {
      seen.push_back(host);
      hosts.emplace_back();
    }
    hosts[index].push_back(member);
    host_of.push_back(index);
  }
  own_host = host_of[static_cast<std::size_t>(collective.member)];
}

std::uint64_t far_number(const Collective& collective, std::int64_t chunk, std::size_t slice) {
  return (static_cast<std::uint64_t>(slice) << kSliceShift) +
         collective.sequence * static_cast<std::uint64_t>(kHierarchicalWindow) +
         static_cast<std::uint64_t>(chunk % kHierarchicalWindow);
}

HierarchicalSteps::HierarchicalSteps(const HierarchicalSetup& setup, const Collective& collective)
    : setup_(setup),
      collective_(collective),
      element_bytes_(static_cast<std::int64_t>(size_of(collective.dtype))),
      chunk_count_(std::max(std::int64_t{1}, setup.chunk_bytes / element_bytes_)),
      chunks_((collective.count + chunk_count_ - 1) / chunk_count_) {}

std::vector<int> HierarchicalSteps::missing(const Step& step, const Operation& operation) const {
  std::set<int> missing;
  for (const int index : operation.missing()) {
    const int rank = step.collective.ranks[static_cast<std::size_t>(index)];
    const auto found = std::ranges::find(collective_.ranks, rank) - collective_.ranks.begin();
    missing.insert(static_cast<int>(found));
    if (step.plane == &setup_.near) continue;
    const auto& host = setup_.layout.hosts[setup_.layout.host_of[static_cast<std::size_t>(found)]];
    missing.insert(host.begin(), host.end());
  }
  return {missing.begin(), missing.end()};
}

std::vector<HierarchicalSteps::Step> HierarchicalSteps::of(std::int64_t chunk) const {
  std::vector<Step> steps = make(chunk);
  steps.front().collective.ready = collective_.ready;
  return steps;
}

HierarchicalSteps::Elements HierarchicalSteps::elements_of(std::int64_t chunk) const {
  const std::int64_t before = chunk * chunk_count_;
  return {static_cast<std::byte*>(collective_.output) + before * element_bytes_,
          std::min(chunk_count_, collective_.count - before)};
}

const std::byte* HierarchicalSteps::input_of(Elements elements) const {
  if (collective_.device == DeviceType::Cpu) return elements.begin;
  const auto* const output = static_cast<const std::byte*>(collective_.output);
  return static_cast<const std::byte*>(collective_.input) + (elements.begin - output);
}

Collective HierarchicalSteps::among(const std::vector<int>& members, CollectiveKind kind,
                                    Elements elements) const {
  Collective step;
  step.kind = kind;
  step.dtype = collective_.dtype;
  for (const int member : members) {
    if (member == collective_.member) step.member = static_cast<int>(step.ranks.size());
    step.ranks.push_back(collective_.ranks[static_cast<std::size_t>(member)]);
  }
  step.channel = collective_.channel;
  step.device = collective_.device;
  step.input = elements.begin;
  step.output = elements.begin;
  step.count = elements.count;
  return step;
}

HierarchicalSteps::Step HierarchicalSteps::near_step(CollectiveKind kind, Elements elements,
                                                     std::int64_t chunk, std::size_t turn) const {
  const std::vector<int>& members = setup_.layout.own();
  Step step{&setup_.near, among(members, kind, elements), turn};
  if (collective_.device == DeviceType::Cuda) {
    step.collective.sequence = collective_.sequence;
    step.collective.lane = lane_of(turn, members.size());
  } else {
    step.collective.sequence = (collective_.sequence << kNearNumberBits) +
                               static_cast<std::uint64_t>(2 * chunk) + turn;
  }
  return step;
}

HierarchicalSteps::Step HierarchicalSteps::far_step(CollectiveKind kind, Elements elements,
                                                    std::int64_t chunk,
                                                    const std::vector<int>& members,
                                                    std::size_t slice) const {
  Step step{&setup_.far, among(members, kind, elements)};
  step.collective.sequence = far_number(collective_, chunk, slice);
  return step;
}

StartedOperation HierarchicalOperation::begin(std::unique_ptr<const HierarchicalSteps> steps) {
  std::unique_ptr<HierarchicalOperation> operation(new HierarchicalOperation(std::move(steps)));
  const Result<Progress> progress = operation->progress();
  if (!progress.ok()) return progress.status();
  return std::unique_ptr<Operation>(std::move(operation));
}

// Peers of this host may be at any later chunk: who gives few bytes does not wait for those who
// take them. So the last chunk is given up first, lest they run ahead of the news. Numbers of the
// far plane come again: peers may still be at one's last use, or already wait for its next, so both
// are given up.
HierarchicalOperation::~HierarchicalOperation() {
  if (over_) return;
  if (const auto& order = steps_->setup().order; order != nullptr) {
    order->fail(Status::error("an operation before it was given up"));
  }
  for (Flight& flight : flights_) {
    flight.operation.reset();
    for (; flight.next < flight.steps.size(); ++flight.next) refuse(flight.steps[flight.next]);
  }
  for (std::int64_t chunk = steps_->chunks() - 1; chunk >= next_chunk_; --chunk) {
    for (const HierarchicalSteps::Step& step : steps_->of(chunk)) refuse(step);
  }
}

Result<bool> HierarchicalOperation::advance(Flight& flight) {
  bool moved = false;
  while (!flight.landed()) {
    if (flight.operation == nullptr) {
      if (!may_begin(flight)) return moved;
      const HierarchicalSteps::Step& step = flight.steps[flight.next];
      StartedOperation started = step.plane->start(step.collective);
      if (!started.ok()) return started.status();
      flight.operation = std::move(started).value();
      note_begun(step);
      ++flight.next;
      moved = true;
    }
    const Result<Progress> progress = flight.operation->progress();
    if (!progress.ok()) return progress.status();
    if (progress.value() != Progress::Done) return moved || progress.value() == Progress::Moved;
    flight.operation.reset();
    moved = true;
  }
  return moved;
}

/// Whether it is the turn of the chunk's next step.
bool HierarchicalOperation::may_begin(const Flight& flight) const {
  const HierarchicalSetup& setup = steps_->setup();
  const std::optional<std::size_t> turn = flight.steps[flight.next].turn;
  if (setup.order == nullptr || !turn) return true;
  return setup.order->has_turn(*turn, setup.number) && begun_[*turn] == flight.chunk;
}

void HierarchicalOperation::note_begun(const HierarchicalSteps::Step& step) {
  if (step.turn) ++begun_[*step.turn];
}

/// Those of which all steps have begun. Whether all are passed on.
bool HierarchicalOperation::pass_turns() {
  const HierarchicalSetup& setup = steps_->setup();
  if (setup.order == nullptr) return true;
  for (std::size_t turn = 0; turn < kNearTurns; ++turn) {
    const std::int64_t steps = turn < steps_->near_turns() ? steps_->chunks() : 0;
    if (passed_[turn] || begun_[turn] < steps || !setup.order->has_turn(turn, setup.number)) {
      continue;
    }
    setup.order->pass_turn(turn);
    passed_[turn] = true;
  }
  return std::ranges::find(passed_, false) == passed_.end();
}

Result<Operation::Progress> HierarchicalOperation::progress() {
  if (const auto& order = steps_->setup().order; order != nullptr && !order->failure().ok()) {
    return order->failure();
  }
  while (next_chunk_ < steps_->chunks() && std::ssize(flights_) < kHierarchicalWindow) {
    flights_.push_back({.chunk = next_chunk_, .steps = steps_->of(next_chunk_)});
    ++next_chunk_;
  }
  bool moved = false;
  for (Flight& flight : flights_) {
    const Result<bool> advanced = advance(flight);
    if (!advanced.ok()) return advanced.status();
    moved = moved || advanced.value();
  }
  while (!flights_.empty() && flights_.front().landed()) flights_.pop_front();
  over_ = pass_turns() && flights_.empty() && next_chunk_ == steps_->chunks();
  if (over_) return Progress::Done;
  return moved ? Progress::Moved : Progress::Waiting;
}

std::vector<int> HierarchicalOperation::missing() const {
  if (flights_.empty() || flights_.front().operation == nullptr) return {};
  const Flight& oldest = flights_.front();
  return steps_->missing(oldest.steps[oldest.next - 1], *oldest.operation);
}

}  // namespace kolo::core
