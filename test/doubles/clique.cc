#include "doubles/clique.h"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <deque>
#include <thread>
#include <utility>

#include "doubles/bytes.h"
#include "doubles/control.h"

namespace kolo::doubles {
namespace {

std::string_view name_of(Kind kind) {
  switch (kind) {
    case Kind::AllReduce:
      return "ncclAllReduce";
    case Kind::Reduce:
      return "ncclReduce";
    case Kind::Broadcast:
      return "ncclBroadcast";
    case Kind::AllGather:
      return "ncclAllGather";
    case Kind::ReduceScatter:
      return "ncclReduceScatter";
    case Kind::Send:
      return "ncclSend";
    case Kind::Recv:
      return "ncclRecv";
  }
  return "";
}

std::vector<std::byte> copy_of(const void* address, std::size_t size) {
  std::vector<std::byte> copy(size);
  copy_bytes(copy.data(), address, size);
  return copy;
}

/// How two parts differ: what of, and both values. Empty if they fit.
std::string difference(const Operation& a, const Operation& b) {
  const auto differ = [](std::string_view what, auto x, auto y) {
    return fmt::format("{} {} and {}", what, x, y);
  };
  if (a.is_collective() && a.kind != b.kind)
    return differ("calls", name_of(a.kind), name_of(b.kind));
  if (a.count != b.count) return differ("counts", a.count, b.count);
  if (a.dtype != b.dtype) return differ("dtypes", to_string(a.dtype), to_string(b.dtype));
  if (a.reduction != b.reduction) {
    return differ("ops", to_string(a.reduction), to_string(b.reduction));
  }
  if (a.is_collective() && a.root != b.root) return differ("roots", a.root, b.root);
  return {};
}

}  // namespace

std::size_t Operation::send_bytes(int rank, int ranks) const {
  const std::size_t once = count * size_of(dtype);
  if (kind == Kind::Recv || (kind == Kind::Broadcast && rank != root)) return 0;
  return kind == Kind::ReduceScatter ? once * static_cast<std::size_t>(ranks) : once;
}

std::size_t Operation::receive_bytes(int rank, int ranks) const {
  const std::size_t once = count * size_of(dtype);
  if (kind == Kind::Send || (kind == Kind::Reduce && rank != root)) return 0;
  return kind == Kind::AllGather ? once * static_cast<std::size_t>(ranks) : once;
}

void Clique::join(int rank, int ranks, int device) {
  std::unique_lock lock(mutex_);
  if (ranks_ != 0 && ranks_ != ranks) {
    add_error(kAnyRank, ncclInvalidArgument,
              fmt::format("communicator {}: rank {} says that there are {} ranks, others {}",
                          index_, rank, ranks, ranks_.load()));
  }
  ranks_ = ranks;
  for (const auto& [other, device_of_other] : device_of_rank_) {
    if (other == rank) {
      add_error(kAnyRank, ncclInvalidArgument,
                fmt::format("communicator {}: two ranks call themselves {}", index_, rank));
    } else if (device_of_other == device) {
      add_error(kAnyRank, ncclInvalidUsage,
                fmt::format("Duplicate GPU detected : rank {} and rank {} both on CUDA device {}",
                            other, rank, device));
    }
  }
  device_of_rank_.emplace(rank, device);
  changed_.notify_all();
  changed_.wait(lock, [&] {
    return device_of_rank_.size() == static_cast<std::size_t>(ranks) || is_aborted(rank) ||
           find_error(rank) != nullptr;
  });
}

void Clique::perform(int rank, std::span<const Operation> operations) {
  std::unique_lock lock(mutex_);
  std::vector<Part> parts;
  bool hangs = false;
  for (const Operation& operation : operations) {
    if (hung_.contains(operation.number)) {
      hangs = true;
    } else if (!is_aborted(rank)) {
      parts.push_back(arrive(rank, operation));
    }
  }
  const auto are_done = [&] {
    return !hangs && std::ranges::all_of(parts, [](const Part& p) { return p.meeting->is_done; });
  };
  changed_.wait(lock, [&] { return is_aborted(rank) || are_done(); });
  if (!parts.empty() && are_done()) {
    const int device = device_of_rank_.at(rank);
    const auto later =
        delays_.draw(longest_delay_of(device) * (device == settings().slow_device ? 10 : 1));
    lock.unlock();
    std::this_thread::sleep_for(later);
    for (std::size_t i = 0; i < parts.size(); ++i) {
      const std::vector<std::byte>& result = parts[i].meeting->results[parts[i].index];
      copy_bytes(operations[i].receive, result.data(), result.size());
    }
    return;
  }
  for (const Operation& operation : operations) {
    fill_bytes(operation.receive, kPoison, operation.receive_bytes(rank, ranks_));
    // Nobody may look any more at what this rank brought.
    const auto meeting = meetings_.find(operation.place);
    if (meeting == meetings_.end()) continue;
    for (const Operation*& brought : meeting->second->operations) {
      if (brought == &operation) brought = nullptr;
    }
  }
}

Clique::Part Clique::arrive(int rank, const Operation& operation) {
  std::shared_ptr<Meeting>& place = meetings_[operation.place];
  if (place == nullptr) {
    const std::size_t parts = operation.is_collective() ? static_cast<std::size_t>(ranks_) : 2;
    place = std::make_shared<Meeting>(std::vector<const Operation*>(parts), parts);
  }
  std::shared_ptr<Meeting> meeting = place;
  const auto part = static_cast<std::size_t>(
      operation.is_collective() ? rank : operation.kind == Kind::Send ? 0 : 1);
  meeting->operations.at(part) = &operation;
  if (--meeting->missing > 0) return {meeting, part};
  if (std::ranges::count(meeting->operations, nullptr) > 0) return {meeting, part};
  if (errors_.empty() && agrees(*meeting)) {
    // As if data had been under way for a while.
    delays_.delay();
    compute(*meeting);
    meeting->is_done = true;
    meetings_.erase(operation.place);
    changed_.notify_all();
  }
  return {meeting, part};
}

bool Clique::agrees(const Meeting& meeting) {
  const Operation& first = *meeting.operations.front();
  for (std::size_t i = 1; i < meeting.operations.size(); ++i) {
    const Operation& other = *meeting.operations[i];
    const std::string what = difference(first, other);
    if (what.empty()) continue;
    const int first_rank = first.is_collective() ? 0 : first.place.source;
    const int other_rank = first.is_collective() ? static_cast<int>(i) : first.place.destination;
    add_error(
        kAnyRank, ncclInvalidUsage,
        fmt::format("communicator {}: rank {} in its operation {} and rank {} in its operation "
                    "{} disagree: {}",
                    index_, first_rank, first.number, other_rank, other.number, what));
    return false;
  }
  return true;
}

void Clique::compute(Meeting& meeting) const {
  const Operation& first = *meeting.operations.front();
  meeting.results.resize(meeting.operations.size());
  if (first.is_collective()) {
    compute_collective(meeting);
  } else {
    meeting.results.back() = copy_of(first.send, first.count * size_of(first.dtype));
  }
}

void Clique::compute_collective(Meeting& meeting) const {
  const Operation& first = *meeting.operations.front();
  const std::size_t part = first.count * size_of(first.dtype);
  std::vector<std::vector<std::byte>> sent;
  for (std::size_t rank = 0; rank < meeting.operations.size(); ++rank) {
    const Operation& operation = *meeting.operations[rank];
    sent.push_back(copy_of(operation.send, operation.send_bytes(static_cast<int>(rank), ranks_)));
  }
  const auto reduce_part = [&](std::size_t offset, std::vector<std::byte>& result) {
    std::vector<const std::byte*> inputs;
    for (const auto& input : sent) inputs.push_back(input.data() + offset);
    reduce(first.dtype, first.reduction, inputs, result.data(), first.count);
  };
  for (std::size_t rank = 0; rank < meeting.operations.size(); ++rank) {
    std::vector<std::byte>& result = meeting.results[rank];
    result.resize(first.receive_bytes(static_cast<int>(rank), ranks_));
    switch (first.kind) {
      case Kind::AllReduce:
        reduce_part(0, result);
        break;
      case Kind::Reduce:
        if (static_cast<int>(rank) == first.root) reduce_part(0, result);
        break;
      case Kind::ReduceScatter:
        reduce_part(rank * part, result);
        break;
      case Kind::Broadcast:
        result = sent.at(static_cast<std::size_t>(first.root));
        break;
      case Kind::AllGather:
        result.clear();
        for (const auto& input : sent) result.insert(result.end(), input.begin(), input.end());
        break;
      case Kind::Send:
      case Kind::Recv:
        break;
    }
  }
}

void Clique::abort(int rank) {
  const std::lock_guard lock(mutex_);
  aborted_.insert(rank);
  changed_.notify_all();
}

void Clique::abort_all() {
  const std::lock_guard lock(mutex_);
  all_aborted_ = true;
  changed_.notify_all();
}

void Clique::hang(std::int64_t operation) {
  const std::lock_guard lock(mutex_);
  hung_.insert(operation);
}

void Clique::report(int rank, ncclResult_t error, std::string message) {
  const std::lock_guard lock(mutex_);
  add_error(rank, error, std::move(message));
}

void Clique::add_error(int rank, ncclResult_t error, std::string message) {
  errors_.push_back({rank, error, std::move(message)});
  has_errors_.store(true, std::memory_order_release);
  changed_.notify_all();
}

const Clique::Error* Clique::find_error(int rank) const {
  const auto found = std::ranges::find_if(
      errors_, [&](const Error& error) { return error.rank == rank || error.rank == kAnyRank; });
  return found == errors_.end() ? nullptr : &*found;
}

ncclResult_t Clique::error(int rank) {
  if (!has_errors_.load(std::memory_order_acquire)) return ncclSuccess;
  const std::lock_guard lock(mutex_);
  const Error* const error = find_error(rank);
  return error == nullptr ? ncclSuccess : error->result;
}

std::string Clique::message(int rank) {
  if (!has_errors_.load(std::memory_order_acquire)) return {};
  const std::lock_guard lock(mutex_);
  const Error* const error = find_error(rank);
  return error == nullptr ? std::string() : error->message;
}

namespace {

struct Cliques {
  std::mutex mutex;
  std::deque<Clique> cliques;
  int next = 0;
};

Cliques& all() {
  static Cliques& instance = *new Cliques;
  return instance;
}

}  // namespace

Clique& clique_at(int index) {
  const std::lock_guard lock(all().mutex);
  while (all().cliques.size() <= static_cast<std::size_t>(index)) {
    const auto number = static_cast<int>(all().cliques.size());
    const std::uint64_t seed = settings().seed * 1000 + 500 + static_cast<std::uint64_t>(number);
    all().cliques.emplace_back(number, Delays(seed, settings().longest_delay));
  }
  return all().cliques[static_cast<std::size_t>(index)];
}

int next_clique() {
  const std::lock_guard lock(all().mutex);
  return all().next++;
}

void abort_all_cliques() {
  const std::lock_guard lock(all().mutex);
  for (Clique& clique : all().cliques) clique.abort_all();
}

void reset_cliques() {
  const std::lock_guard lock(all().mutex);
  all().cliques.clear();
  all().next = 0;
}

void hang(int communicator, std::int64_t operation) { clique_at(communicator).hang(operation); }

void report_async_error(int communicator, ncclResult_t error, std::string_view message, int rank) {
  clique_at(communicator).report(rank, error, std::string(message));
}

}  // namespace kolo::doubles
