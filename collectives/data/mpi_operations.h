#pragma once

/// The operations of the MPI data plane: one function begins each.

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "data/data_plane.h"
#include "data/mpi_exchange.h"

namespace kolo::core {

/// What an operation gets from its plane.
struct MpiSetup {
  MPI_Comm comm = MPI_COMM_NULL;
  /// Tags that no other operation in flight uses.
  std::array<int, 2> tags{};
  /// A whole number of elements, and what an int can count.
  std::int64_t chunk_bytes = 0;
};

/// Every member's vector to every other, in one chunk. For few bytes.
StartedOperation start_direct_allreduce(const MpiSetup& setup, const Collective& collective);
/// Reduce-scatter and all-gather. For many bytes.
StartedOperation start_sliced_allreduce(const MpiSetup& setup, const Collective& collective);
StartedOperation start_broadcast(const MpiSetup& setup, const Collective& collective);
StartedOperation start_reducescatter(const MpiSetup& setup, const Collective& collective);
/// An all-gather or an all-to-all.
StartedOperation start_spread(const MpiSetup& setup, const Collective& collective);

/// Elements of `input`, to be sent.
Chunks input_chunks(const Collective& collective, std::int64_t begin, std::int64_t count,
                    std::int64_t chunk_bytes);

class MpiOperation : public Operation {
 public:
  static StartedOperation begin(std::unique_ptr<MpiOperation> operation);
  Result<Progress> progress() final;
  std::vector<int> missing() const final;

 protected:
  MpiOperation(const MpiSetup& setup, const Collective& collective)
      : setup_(setup), collective_(collective), exchange_(setup.comm) {}

  /// Posts and computes what it can; whether everything is done, including earlier transfers.
  virtual Result<bool> advance() = 0;

  const Collective& collective() const { return collective_; }
  Exchange& exchange() { return exchange_; }
  int members() const { return static_cast<int>(collective_.ranks.size()); }
  /// Members other than this one, the next one first, so that not all begin with the same.
  std::vector<int> peers() const;
  std::int64_t bytes_of(std::int64_t count) const;
  /// `tag` is an index into the setup's.
  Lane open_lane(Direction direction, int member, std::size_t tag);

 private:
  const MpiSetup setup_;
  const Collective collective_;
  Exchange exchange_;
};

}  // namespace kolo::core
