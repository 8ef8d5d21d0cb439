#pragma once

/// What every data plane asks of a Collective before it touches it.

#include "base/status.h"
#include "data/data_plane.h"

namespace kolo::core {

/// This member's global rank.
int rank_of(const Collective& collective);

/// Whether one member's description makes sense by itself, on `rank` of `size`.
Status well_formed(const Collective& collective, int rank, int size);

}  // namespace kolo::core
