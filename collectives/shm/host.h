#pragma once

/// The ranks of one host, and the memory that they share.

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/doorbell.h"
#include "base/status.h"
#include "shm/arena.h"
#include "shm/bootstrap.h"
#include "shm/ring.h"

namespace kolo::core::shm {

/// What in an arena belongs to which plane.
enum class Section { Control, Data };
constexpr std::size_t kSections = 2;

/// By sender: how often it has written to a rank, so that this need not look at every ring.
using Notice = std::atomic<std::uint16_t>;
static_assert(Notice::is_always_lock_free);

/// Every rank maps every rank's arena: its doorbell, the notices of those who have written to it,
/// the rings in which they do, and its heap. What is mapped stays valid when its owner has left or
/// died.
class Host {
 public:
  struct Settings {
    /// Of this rank, among all of the job.
    int global_rank = 0;
    /// Bytes of an arena, at most; 0: as large as all ranks may map (arena_limits.h).
    std::size_t capacity = 0;
    /// Why this rank does not want to share memory; empty when it does.
    std::string refusal;
  };

  /// Collective over the ranks of the host. Succeeds on all of them or on none; an error names a
  /// rank and its reason, the same everywhere.
  static Result<std::shared_ptr<Host>> join(Bootstrap& bootstrap, const Settings& settings);

  int self() const { return self_; }
  int size() const { return static_cast<int>(arenas_.size()); }

  /// Global ranks, in local order.
  const std::vector<int>& ranks() const { return ranks_; }
  /// The local rank of a global one, if it is on this host.
  std::optional<int> local_rank(int rank) const;

  Arena& own() const { return *own_; }
  /// Keeps the arena.
  std::shared_ptr<Doorbell::Word> own_doorbell() const;

  void ring(int local_rank) const { Doorbell::ring(doorbell(local_rank)); }
  /// Both are in the receiver's arena; its notices lie side by side.
  Ring& ring_between(Section section, int sender, int receiver) const;
  Notice& notice_between(Section section, int sender, int receiver) const;

  /// Memory in a rank's arena; null when that is not in it.
  std::byte* at(int local_rank, std::uint64_t offset, std::size_t bytes) const;

 private:
  Host() = default;
  Doorbell::Word& doorbell(int local_rank) const;
  std::size_t index_of(Section section, int sender) const;
  const Mapping& arena(int local_rank) const {
    return *arenas_[static_cast<std::size_t>(local_rank)];
  }

  int self_ = 0;
  std::vector<int> ranks_;
  std::shared_ptr<Arena> own_;
  /// As mapped here, in local order; the own one, too.
  std::vector<std::shared_ptr<const Mapping>> arenas_;
};

}  // namespace kolo::core::shm
