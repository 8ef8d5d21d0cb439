#pragma once

/// The operations that cut tensors into rows, along their first dimension. Pure functions.

#include <cstdint>
#include <vector>

#include "data/data_plane.h"
#include "wire/messages.h"

namespace kolo::core {

/// Alltoall: rows that go to each member, of a request that is right by itself.
std::vector<std::int64_t> splits_of(const Request& request, std::size_t members);

/// Reducescatter: rows that each member gets of the reduced tensor. As equal as can be, the first
/// ones one more.
std::vector<std::int64_t> slices_of(const Request& request, std::size_t members);

/// The elements of an all-gather, a reduce-scatter or an all-to-all among the collective's members.
/// `rows`: those that come from each member, or (Reducescatter) go to each.
void describe_rows(const Request& request, const std::vector<std::int64_t>& rows,
                   Collective& collective);

}  // namespace kolo::core
