#pragma once

/// A data plane between the ranks of one host, tensors in host memory.
///
/// Members tell each other in signals (shm_exchange.h) where their memory is and how far they are,
/// and read and write it in place where it lies in an arena, or else through stages. The arithmetic
/// is data/reduce.h. Each kind of operation has its own file. Tables of states:
/// shm_flat_allreduce.cc, shm_allreduce.cc, shm_reducescatter.cc, and shm_spread.h for those that
/// only copy.

#include <cstdint>
#include <memory>

#include "data/data_plane.h"
#include "data/shm_exchange.h"
#include "data/shm_stages.h"
#include "shm/host.h"

namespace kolo::core {

/// The same on all ranks, or they will not understand each other.
struct ShmDataOptions {
  /// Private memory goes through stages in steps of this size, which stay in the cache.
  std::int64_t chunk_bytes = std::int64_t{256} << 10;

  /// Up to this size a member's bytes travel within signals.
  std::int64_t flat_bytes = std::int64_t{4} << 10;

  /// From so many members on, an all-reduce of so few bytes goes by way of the first one.
  int many_members = 6;

  /// What one call of progress() works on at most.
  std::int64_t piece_bytes = std::int64_t{1} << 20;
};

class ShmDataPlane final : public DataPlane {
 public:
  explicit ShmDataPlane(std::shared_ptr<shm::Host> host, const ShmDataOptions& options = {});

  /// All members must be ranks of this host. Any number of operations may be in flight; it is
  /// enough that their numbers differ.
  ///
  /// One that is destroyed before it is Done fails on the other members, unless they are Done
  /// before they hear of it. When there is no room to tell a member so, neither waits for the other
  /// any more: what would, fails.
  StartedOperation start(const Collective& collective) override;
  /// In the arena, as long as there is room.
  Result<std::shared_ptr<std::byte>> allocate(DeviceType device, std::size_t bytes) override;
  bool carries_declines(const std::vector<int>& /*ranks*/) const override { return true; }
  bool rings() const override { return true; }

 private:
  const std::shared_ptr<shm::Host> host_;
  const ShmDataOptions options_;
  ShmExchange exchange_;
  ShmStages stages_;
};

}  // namespace kolo::core
