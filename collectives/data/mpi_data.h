#pragma once

/// A data plane over MPI: any number of hosts, tensors in host memory.
///
/// Everything is MPI_Isend and MPI_Irecv of bytes; the arithmetic is data/reduce.h. Each kind of
/// operation has its own file, mpi_allreduce.cc and so on.

#include <cstdint>
#include <memory>

#include "data/data_plane.h"
#include "mpi/session.h"

namespace kolo::core {

/// The same on all ranks, or they will not understand each other.
struct MpiDataOptions {
  /// Larger transfers are cut into chunks of this size, so that one is under way while the next is
  /// being reduced. Open MPI sends up to 64 KiB over TCP without asking the receiver first; each
  /// such question waits for a look of the receiver, and behind what is queued on the link.
  std::int64_t chunk_bytes = std::int64_t{60} << 10;

  /// All-reduces up to this size send everything to everybody: more bytes, but one latency.
  std::int64_t direct_bytes = std::int64_t{16} << 10;
};

class MpiDataPlane final : public DataPlane {
 public:
  /// Collective over all ranks, each of which waits for the others.
  static Result<std::unique_ptr<MpiDataPlane>> create(const mpi::Session& session,
                                                      const MpiDataOptions& options = {});

  /// A channel has at most 64 operations in flight.
  ///
  /// An operation that is destroyed before it is Done cancels its transfers. One that cannot be
  /// cancelled, because the peer has begun to send, gets a moment to complete; if it does not, its
  /// scratch memory is kept for good, but a late message may still arrive in `collective.output`.
  Result<std::unique_ptr<Operation>> start(const Collective& collective) override;
  bool rings() const override { return false; }

 private:
  MpiDataPlane(mpi::Comm comm, const MpiDataOptions& options, int tag_limit);

  mpi::Comm comm_;
  MpiDataOptions options_;
  int tag_limit_;
  int rank_;
  int size_;
};

}  // namespace kolo::core
