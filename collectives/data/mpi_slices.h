#pragma once

/// The reduction that an all-reduce and a reduce-scatter over MPI have in common.

#include <cstdint>
#include <span>
#include <vector>

#include "data/mpi_operations.h"

namespace kolo::core {

/// Each member owns a slice of the vector. It receives the others' parts of it chunk by chunk, and
/// reduces a chunk when all its parts are there. So every chunk is reduced in one go, in member
/// order, by one member; and while one is being reduced, others are under way. Memory
/// for parts that are received ahead is at most kWindow chunks for each other member.
class SlicedReduction : public MpiOperation {
 protected:
  /// `slices`: what each member owns, in this one's vector. `result`: where the own one is to be
  /// reduced, which may be in place.
  SlicedReduction(const MpiSetup& setup, const Collective& collective, std::vector<Chunks> slices,
                  std::byte* result);

  /// Another member's part in it.
  struct Parts {
    int member;
    /// What it owns.
    Chunks slice;
    /// Where its parts of our slice arrive: the one of chunk i in place i modulo kWindow.
    Chunks scratch;
    Lane in;
    /// Our parts of its slice, straight from the vector.
    Lane out;

    std::span<std::byte> of(std::int64_t chunk, std::size_t bytes) const {
      return scratch[chunk % kWindow].first(bytes);
    }
    bool sent() { return out.completed() == slice.count(); }
  };
  /// In the order of peers().
  std::vector<Parts>& parts() { return parts_; }
  Status post(Parts& parts);

  const Chunks& result() const { return result_; }
  /// Chunks of it that are there.
  std::int64_t reduced() const { return reduced_; }
  /// Whether there was a chunk with all its parts.
  bool reduce_next();

 private:
  const Chunks own_;
  const Chunks result_;
  std::int64_t reduced_ = 0;
  std::vector<Parts> parts_;
};

}  // namespace kolo::core
