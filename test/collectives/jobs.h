#pragma once

/// Collectives as all their members see them, for tests of data planes: what each gives, and what
/// it has to get.

#include <cstdint>
#include <vector>

#include "data/data_plane.h"
#include "reduce_oracle.h"

namespace kolo::core::jobs {

struct Job {
  /// Without member and addresses, nor what differs between members.
  Collective collective;
  /// Of the random inputs.
  std::uint64_t seed = 0;
  /// Alltoall: elements that each member gives to each.
  std::vector<std::vector<std::int64_t>> splits = {};
};

/// As a member starts it, but for the addresses.
Collective part_of(const Job& job, int member);

oracle::Bytes input_of(const Job& job, int member);

/// What of each member's input decides about a member's output.
std::vector<oracle::Bytes> shares_for(const Job& job, int member,
                                      const std::vector<oracle::Bytes>& inputs);

/// The output of a collective that moves values, from the shares.
oracle::Bytes moved(const Collective& collective, const std::vector<oracle::Bytes>& shares);

/// A vector of at least this length is large: of these there is one of each kind.
constexpr std::int64_t kLarge = 10'000;

/// All-reduces with each op, and with factors.
std::vector<Collective> allreduces(DataType dtype, std::int64_t count);

/// All that `count` elements make among so many members: these all-reduces, as many
/// reduce-scatters, broadcasts, and ragged all-gathers and all-to-alls.
std::vector<Job> all_kinds(std::vector<Collective> allreduces, DataType dtype, std::int64_t count,
                           int members);

}  // namespace kolo::core::jobs
