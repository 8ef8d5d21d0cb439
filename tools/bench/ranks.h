#pragma once

/// The benchmark's own line between its ranks, apart from what it measures.

#include <span>
#include <vector>

#include "mpi/handles.h"

namespace kolo::bench {

class Ranks {
 public:
  /// A process that is alone.
  Ranks() = default;

  /// All ranks of the job, once kolo::init() has started MPI; a process without MPI is alone.
  /// Collective.
  /// @throws std::runtime_error when MPI fails, or cannot be used beside Kolo's thread.
  static Ranks of_job();

  /// The ranks that are on the same side as this one. Collective.
  Ranks split(bool side) const;

  int rank() const { return alone() ? 0 : comm_.rank(); }
  int size() const { return alone() ? 1 : comm_.size(); }
  MPI_Comm comm() const { return comm_.get(); }

  // Collective.
  void barrier() const;
  double max(double value) const;
  double mean(double value) const;
  /// All ranks' values, rank by rank; each gives as many.
  std::vector<float> gather(std::span<const float> values) const;
  bool any(bool value) const { return max(value ? 1 : 0) > 0; }

 private:
  bool alone() const { return comm_.get() == MPI_COMM_NULL; }

  core::mpi::Comm comm_;
};

/// @throws std::runtime_error when an MPI call has failed.
void require_mpi(int code, const char* what);

}  // namespace kolo::bench
