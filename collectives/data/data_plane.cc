#include "data/data_plane.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <numeric>

#include "base/memory_left.h"

namespace kolo::core {
namespace {

constexpr std::size_t kAlignment = 64;

}  // namespace

Result<std::shared_ptr<std::byte>> allocate_memory(std::size_t bytes) {
  if (Status status = memory_left_for(bytes); !status.ok()) return status;
  // A multiple of the alignment, and not 0.
  const std::size_t size =
      (std::max(bytes, std::size_t{1}) + kAlignment - 1) / kAlignment * kAlignment;
  auto* const memory = static_cast<std::byte*>(std::aligned_alloc(kAlignment, size));
  if (memory == nullptr) return Status::error(fmt::format("no memory for {} bytes", bytes));
  return std::shared_ptr<std::byte>(memory, std::free);
}

Result<std::shared_ptr<std::byte>> DataPlane::allocate(DeviceType device, std::size_t bytes) {
  if (device == DeviceType::Cpu) return allocate_memory(bytes);
  return Status::error(fmt::format("no data plane has memory of {}", to_string(device)));
}

std::int64_t input_count(const Collective& collective) {
  switch (collective.kind) {
    case CollectiveKind::Allgather:
      return collective.counts[static_cast<std::size_t>(collective.member)];
    case CollectiveKind::Alltoall:
      return elements_before(collective.splits, collective.splits.size());
    case CollectiveKind::Allreduce:
    case CollectiveKind::Broadcast:
    case CollectiveKind::Reducescatter:
    case CollectiveKind::Barrier:
    case CollectiveKind::AddProcessSet:
      break;
  }
  return collective.count;
}

std::int64_t output_count(const Collective& collective) {
  if (collective.kind != CollectiveKind::Reducescatter) return collective.count;
  return collective.counts[static_cast<std::size_t>(collective.member)];
}

std::int64_t elements_before(const std::vector<std::int64_t>& counts, std::size_t members) {
  const auto end = counts.begin() + static_cast<std::ptrdiff_t>(members);
  return std::accumulate(counts.begin(), end, std::int64_t{0});
}

}  // namespace kolo::core
