#include "data/nccl_operation.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>

#include "cuda/check.h"
#include "cuda/pack.h"
#include "cuda/stream.h"

namespace kolo::core {
namespace {

using Clock = std::chrono::steady_clock;

std::byte* at(void* begin, std::int64_t bytes) { return static_cast<std::byte*>(begin) + bytes; }
const std::byte* at(const void* begin, std::int64_t bytes) {
  return static_cast<const std::byte*>(begin) + bytes;
}

/// Whether this member has nothing to tell NCCL.
bool is_empty(const Collective& collective) {
  return input_count(collective) == 0 && collective.count == 0;
}

}  // namespace

NcclOperation::NcclOperation(std::shared_ptr<NcclChannel> channel, const Collective& collective,
                             int device, std::chrono::duration<double> done_within)
    : channel_(std::move(channel)),
      collective_(collective),
      device_(device),
      done_within_(done_within),
      number_(channel_->take_number()),
      reduction_(reduces(collective.kind) ? nccl_reduction(collective) : NcclReduction()),
      input_(collective.input) {
  channel_->add(fate_);
}

NcclOperation::~NcclOperation() {
  if (state_ != State::Done) {
    const cuda::DeviceGuard guard(device_);
    (void)channel_->fail(
        Status::error(fmt::format("{} was given up", to_string(collective_.kind))));
  }
  channel_->remove(fate_);
}

std::vector<int> NcclOperation::missing() const {
  return state_ == State::Queued ? channel_->missing() : std::vector<int>();
}

Result<Operation::Progress> NcclOperation::progress() {
  const cuda::DeviceGuard guard(device_);
  if (!guard.status().ok()) return guard.status();
  Result<Progress> progress = advance();
  return progress.ok() ? progress : channel_->fail(progress.status());
}

Result<Operation::Progress> NcclOperation::advance() {
  const State before = state_;
  if (state_ == State::Queued) {
    const Result<bool> open = channel_->open();
    if (!open.ok()) return open.status();
    if (open.value() && channel_->has_turn(number_)) {
      begun_at_ = Clock::now();
      if (Status status = begin(); !status.ok()) return status;
      state_ = State::Issuing;
    }
  }
  if (state_ == State::Issuing) {
    const Result<bool> settled = channel_->settled();
    if (!settled.ok()) return settled.status();
    if (settled.value()) {
      if (Status status = end(); !status.ok()) return status;
      channel_->pass_turn();
      state_ = State::Issued;
    } else if (Status status = check_time(); !status.ok()) {
      return status;
    }
  }
  if (state_ == State::Issued) {
    const Result<bool> over = is_over();
    if (!over.ok()) return over.status();
    if (over.value()) {
      state_ = State::Done;
      channel_->remove(fate_);
    }
  }
  if (state_ == State::Done) return Progress::Done;
  return state_ == before ? Progress::Waiting : Progress::Moved;
}

// ---- into the stream ----

Status NcclOperation::begin() {
  const cudaStream_t stream = channel_->stream();
  if (collective_.timed) {
    if (Status status = channel_->compare_clocks(); !status.ok()) return status;
  }
  for (const auto& ready : collective_.ready) {
    if (Status status = cuda::make_stream_wait(stream, *ready); !status.ok()) return status;
  }
  if (Status status = mark(started_); !status.ok()) return status;
  if (Status status = pack(); !status.ok()) return status;
  if (Status status = mark(packed_); !status.ok()) return status;
  if (is_empty(collective_)) return {};
  if (collective_.ranks.size() == 1) return copy_alone();
  for (const void* address : {input_, static_cast<const void*>(collective_.output)}) {
    if (Status status = channel_->know(address); !status.ok()) return status;
  }
  return call_nccl();
}

Status NcclOperation::pack() {
  if (Status status = copy(collective_.pack); !status.ok()) return status;
  if (reduction_.scale_before == 1.0) return {};
  // All of it, also what did not have to be packed.
  // The output of a reduce-scatter has no room for it.
  const bool scatters = collective_.kind == CollectiveKind::Reducescatter;
  void* const place = scatters ? collective_.scratch : collective_.output;
  const DeviceCopy scaled{collective_.input, place, collective_.count};
  input_ = place;
  return copy({&scaled, 1}, reduction_.scale_before);
}

Status NcclOperation::unpack() {
  if (reduction_.scale_after != 1.0) {
    const DeviceCopy scaled{collective_.output, collective_.output, output_count(collective_)};
    if (Status s = copy({&scaled, 1}, reduction_.scale_after); !s.ok()) return s;
  }
  return copy(collective_.unpack);
}

Status NcclOperation::copy(std::span<const DeviceCopy> copies, double scale) const {
  if (copies.empty()) return {};
  return cuda::launch_copies(copies, {collective_.dtype, collective_.dtype, scale},
                             channel_->stream());
}

/// A member that is alone asks nobody.
Status NcclOperation::copy_alone() {
  const double factor = reduction_.factor.value_or(1.0);
  reduction_.factor.reset();
  if (input_ == collective_.output && factor == 1.0) return {};
  const DeviceCopy own{input_, collective_.output, collective_.count};
  return copy({&own, 1}, factor);
}

Status NcclOperation::call_nccl() {
  const ncclComm_t comm = channel_->communicator().get();
  switch (collective_.kind) {
    case CollectiveKind::Allreduce:
      return all_reduce(comm);
    case CollectiveKind::Broadcast:
      return broadcast(comm);
    case CollectiveKind::Allgather:
      return all_gather(comm);
    case CollectiveKind::Reducescatter:
      return reduce_scatter(comm);
    case CollectiveKind::Alltoall:
      return all_to_all(comm);
    case CollectiveKind::Barrier:
    case CollectiveKind::AddProcessSet:
      break;
  }
  return Status::error(fmt::format("no operation of a GPU: {}", to_string(collective_.kind)));
}

Status NcclOperation::make_reduction(ncclComm_t comm) {
  if (!reduction_.factor) return {};
  const Result<ncclRedOp_t> op = make_scaled_sum(*reduction_.factor, collective_.dtype, comm);
  if (!op.ok()) return op.status();
  reduction_.op = op.value();
  return {};
}

bool NcclOperation::all_counts_equal() const {
  return std::ranges::all_of(collective_.counts, [this](std::int64_t count) {
    return count == collective_.counts.front();
  });
}

Status NcclOperation::all_reduce(ncclComm_t comm) {
  if (Status status = make_reduction(comm); !status.ok()) return status;
  const ncclResult_t result =
      ncclAllReduce(input_, collective_.output, static_cast<std::size_t>(collective_.count),
                    nccl_type(collective_.dtype).type, reduction_.op, comm, channel_->stream());
  return cuda::check(result, "ncclAllReduce", comm);
}

Status NcclOperation::broadcast(ncclComm_t comm) const {
  const NcclType type = nccl_type(collective_.dtype);
  const ncclResult_t result =
      ncclBroadcast(collective_.output, collective_.output,
                    static_cast<std::size_t>(collective_.count * type.parts), type.type,
                    collective_.root_member, comm, channel_->stream());
  return cuda::check(result, "ncclBroadcast", comm);
}

/// Members may have different numbers of elements, for which NCCL has no all-gather.
Status NcclOperation::all_gather(ncclComm_t comm) const {
  const NcclType type = nccl_type(collective_.dtype);
  const auto bytes = static_cast<std::int64_t>(size_of(collective_.dtype));
  const auto& counts = collective_.counts;
  if (all_counts_equal()) {
    const ncclResult_t result = ncclAllGather(collective_.input, collective_.output,
                                              static_cast<std::size_t>(counts.front() * type.parts),
                                              type.type, comm, channel_->stream());
    return cuda::check(result, "ncclAllGather", comm);
  }
  std::int64_t offset = 0;
  return group(comm, [&](int member) -> Status {
    const std::int64_t count = counts[static_cast<std::size_t>(member)];
    std::byte* const place = at(collective_.output, offset * bytes);
    offset += count;
    if (count == 0) return {};
    const void* const from = member == collective_.member ? collective_.input : place;
    return cuda::check(ncclBroadcast(from, place, static_cast<std::size_t>(count * type.parts),
                                     type.type, member, comm, channel_->stream()),
                       "ncclBroadcast", comm);
  });
}

/// Slices that differ are reduced to one member each.
Status NcclOperation::reduce_scatter(ncclComm_t comm) {
  if (Status status = make_reduction(comm); !status.ok()) return status;
  const ncclDataType_t type = nccl_type(collective_.dtype).type;
  const auto bytes = static_cast<std::int64_t>(size_of(collective_.dtype));
  const auto& counts = collective_.counts;
  if (all_counts_equal()) {
    const ncclResult_t result =
        ncclReduceScatter(input_, collective_.output, static_cast<std::size_t>(counts.front()),
                          type, reduction_.op, comm, channel_->stream());
    return cuda::check(result, "ncclReduceScatter", comm);
  }
  std::int64_t offset = 0;
  return group(comm, [&](int member) -> Status {
    const std::int64_t count = counts[static_cast<std::size_t>(member)];
    const std::byte* const from = at(input_, offset * bytes);
    offset += count;
    if (count == 0) return {};
    void* const to = member == collective_.member ? collective_.output : nullptr;
    return cuda::check(ncclReduce(from, to, static_cast<std::size_t>(count), type, reduction_.op,
                                  member, comm, channel_->stream()),
                       "ncclReduce", comm);
  });
}

/// Also from this member to itself.
Status NcclOperation::all_to_all(ncclComm_t comm) const {
  const NcclType type = nccl_type(collective_.dtype);
  const auto bytes = static_cast<std::int64_t>(size_of(collective_.dtype));
  std::int64_t given = 0;
  std::int64_t taken = 0;
  return group(comm, [&](int member) -> Status {
    const std::int64_t split = collective_.splits[static_cast<std::size_t>(member)];
    const std::int64_t count = collective_.counts[static_cast<std::size_t>(member)];
    const std::byte* const from = at(input_, given * bytes);
    std::byte* const to = at(collective_.output, taken * bytes);
    given += split;
    taken += count;
    Status status;
    if (split > 0) {
      status = cuda::check(ncclSend(from, static_cast<std::size_t>(split * type.parts), type.type,
                                    member, comm, channel_->stream()),
                           "ncclSend", comm);
    }
    if (count > 0 && status.ok()) {
      status = cuda::check(ncclRecv(to, static_cast<std::size_t>(count * type.parts), type.type,
                                    member, comm, channel_->stream()),
                           "ncclRecv", comm);
    }
    return status;
  });
}

/// The calls for all members as one, until one fails.
Status NcclOperation::group(ncclComm_t comm, const std::function<Status(int member)>& call) const {
  Status status = cuda::check(ncclGroupStart(), "ncclGroupStart", comm);
  if (!status.ok()) return status;
  for (int member = 0; member < std::ssize(collective_.ranks) && status.ok(); ++member) {
    status = call(member);
  }
  const Status ended = cuda::check(ncclGroupEnd(), "ncclGroupEnd", comm);
  return status.ok() ? ended : status;
}

Status NcclOperation::end() {
  if (reduction_.factor && !is_empty(collective_)) {
    const ncclComm_t comm = channel_->communicator().get();
    const ncclResult_t destroyed = ncclRedOpDestroy(reduction_.op, comm);
    if (Status s = cuda::check(destroyed, "ncclRedOpDestroy", comm); !s.ok()) return s;
  }
  if (Status status = mark(reduced_); !status.ok()) return status;
  if (Status status = unpack(); !status.ok()) return status;
  Result<std::shared_ptr<cuda::Event>> finished =
      cuda::Event::record(channel_->stream(), {.timed = collective_.timed, .fate = fate_});
  if (!finished.ok()) return finished.status();
  finished_ = std::move(finished).value();
  return {};
}

/// Where times are asked for.
Status NcclOperation::mark(std::shared_ptr<cuda::Event>& event) const {
  if (!collective_.timed) return {};
  Result<std::shared_ptr<cuda::Event>> recorded =
      cuda::Event::record(channel_->stream(), {.timed = true});
  if (!recorded.ok()) return recorded.status();
  event = std::move(recorded).value();
  return {};
}

// ---- until the GPU has run it ----

Result<bool> NcclOperation::is_over() {
  const Result<bool> reached = finished_->reached();
  if (!reached.ok()) return reached;
  if (reached.value()) {
    if (Status status = read_times(); !status.ok()) return status;
    return true;
  }
  // Tells of errors, too.
  const Result<bool> settled = channel_->settled();
  if (!settled.ok()) return settled.status();
  if (Status status = check_time(); !status.ok()) return status;
  return false;
}

Status NcclOperation::check_time() const {
  if (done_within_.count() == 0 || Clock::now() - begun_at_ <= done_within_) return {};
  return Status::error(fmt::format("{} was in the GPU's queue for more than {} s",
                                   to_string(collective_.kind), done_within_.count()));
}

Status NcclOperation::read_times() {
  if (!collective_.timed) return {};
  const std::array<std::shared_ptr<cuda::Event>, 4> events = {started_, packed_, reduced_,
                                                              finished_};
  std::array<Clock::time_point, 4> times;
  for (std::size_t i = 0; i < events.size(); ++i) {
    const Result<Clock::time_point> time = channel_->time_of(events[i]);
    if (!time.ok()) return time.status();
    times[i] = time.value();
  }
  times_ = {times[0], times[1], times[2], times[3]};
  return {};
}

}  // namespace kolo::core
