#pragma once

/// What the operations of the MPI data plane are made of: chunks that travel along lanes.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/status.h"
#include "mpi/handles.h"

namespace kolo::core {

/// So many chunks of one lane may be under way.
constexpr std::int64_t kWindow = 4;

/// Memory cut into chunks, the last of which may be shorter.
struct Chunks {
  std::byte* begin = nullptr;
  std::int64_t bytes = 0;
  std::int64_t chunk_bytes = 1;

  std::int64_t count() const { return (bytes + chunk_bytes - 1) / chunk_bytes; }
  std::span<std::byte> operator[](std::int64_t index) const {
    const std::int64_t offset = index * chunk_bytes;
    return {begin + offset, static_cast<std::size_t>(std::min(chunk_bytes, bytes - offset))};
  }
};

enum class Direction { Send, Receive };

/// One operation's transfers and the scratch memory that they use. An Exchange that is destroyed
/// while MPI still uses the scratch memory leaves it to MPI for good.
class Exchange {
 public:
  explicit Exchange(MPI_Comm comm) : comm_(comm) {}
  ~Exchange();
  Exchange(const Exchange&) = delete;
  Exchange& operator=(const Exchange&) = delete;

  /// To be called at most once. Not initialised.
  std::byte* allocate_scratch(std::int64_t bytes);

  /// Lets MPI work for a moment; whether any transfer has completed. A failure names the peer.
  Result<bool> poll();

  /// Those from which a chunk is expected, and none has come.
  std::vector<int> silent_ranks() const;

 private:
  friend class Lane;

  struct Peer {
    Direction direction;
    int rank;
    std::int64_t posted = 0;
  };

  MPI_Comm comm_;
  mpi::Requests requests_;
  /// Of each lane.
  std::vector<Peer> peers_;
  std::unique_ptr<std::byte[]> scratch_;
};

/// Chunks that go to, or come from, one peer one after the other. Both ends post the same chunks in
/// the same order.
class Lane {
 public:
  /// `tag` must be different from those of other lanes between the same two ranks in this
  /// direction.
  Lane(Exchange& exchange, Direction direction, int rank, int tag);

  /// How many chunks have been posted, and how many of these have completed with all before them.
  std::int64_t posted() const;
  std::int64_t completed();
  bool has_room() { return posted() - completed() < kWindow; }

  /// Posts one more chunk; there must be room. Until it has completed MPI reads or writes it.
  Status post(std::span<std::byte> chunk);
  /// Posts those of `chunks` that are next, while there is room, up to and without number `end`.
  Status post(const Chunks& chunks, std::int64_t end);

 private:
  std::size_t slot(std::int64_t chunk) const {
    return first_slot_ + static_cast<std::size_t>(chunk % kWindow);
  }

  Exchange* exchange_;
  std::size_t lane_;
  std::size_t first_slot_;
  int tag_;
  std::int64_t completed_ = 0;
};

}  // namespace kolo::core
