#pragma once

namespace kolo::core {

/// Where a rank stands among all ranks, and among those of its host.
struct Topology {
  int rank = 0;
  int size = 1;
  int local_rank = 0;
  int local_size = 1;
  /// The rank and number among the processes with this local_rank on all hosts.
  int cross_rank = 0;
  int cross_size = 1;
  /// Rank 0 is on this host. cross_rank does not tell: where hosts have different numbers of ranks, it is 0
  /// also for a local_rank that only later hosts have.
  bool with_rank_0 = true;
};

}  // namespace kolo::core
