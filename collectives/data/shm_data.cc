#include "data/shm_data.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "data/shm_operations.h"
#include "data/well_formed.h"

namespace kolo::core {
namespace {

// Two slots for what is filled, two for what is finished.
constexpr std::int64_t kStagedChunks = 4;
// Slices and chunks begin at multiples of a cache line's size, and of an element's.
constexpr std::int64_t kUnit = 64;

ShmDataOptions rounded(ShmDataOptions options) {
  for (std::int64_t* const bytes : {&options.chunk_bytes, &options.piece_bytes}) {
    *bytes = std::max(*bytes / kUnit, std::int64_t{1}) * kUnit;
  }
  return options;
}

}  // namespace

ShmDataPlane::ShmDataPlane(std::shared_ptr<shm::Host> host, const ShmDataOptions& options)
    : host_(std::move(host)),
      options_(rounded(options)),
      exchange_(host_),
      stages_(host_->own(), static_cast<std::size_t>(kStagedChunks * options_.chunk_bytes)) {}

Result<std::shared_ptr<std::byte>> ShmDataPlane::allocate(DeviceType device, std::size_t bytes) {
  if (device == DeviceType::Cpu) {
    if (std::shared_ptr<std::byte> memory = host_->own().allocate(bytes)) return memory;
  }
  return DataPlane::allocate(device, bytes);
}

StartedOperation ShmDataPlane::start(const Collective& collective) {
  const int rank = host_->ranks()[static_cast<std::size_t>(host_->self())];
  const int largest = *std::ranges::max_element(host_->ranks());
  if (Status status = well_formed(collective, rank, largest + 1); !status.ok()) return status;
  for (const int other : collective.ranks) {
    if (host_->local_rank(other)) continue;
    return Status::error(
        fmt::format("operation {} of channel {} has rank {}, which is not on the host of rank {}",
                    collective.sequence, collective.channel, other, rank));
  }
  const ShmSetup setup{*host_, exchange_, stages_, options_};
  switch (collective.kind) {
    case CollectiveKind::Allreduce: {
      const auto bytes = collective.count * static_cast<std::int64_t>(size_of(collective.dtype));
      return bytes <= options_.flat_bytes ? start_flat_allreduce(setup, collective)
                                          : start_sliced_allreduce(setup, collective);
    }
    case CollectiveKind::Broadcast:
      return start_shm_broadcast(setup, collective);
    case CollectiveKind::Allgather:
      return start_shm_allgather(setup, collective);
    case CollectiveKind::Reducescatter:
      return start_shm_reducescatter(setup, collective);
    case CollectiveKind::Alltoall:
      return start_shm_alltoall(setup, collective);
    case CollectiveKind::Barrier:
    case CollectiveKind::AddProcessSet:
      break;  // refused by well_formed()
  }
  return Status::error("not an operation for a data plane");
}

}  // namespace kolo::core
