#pragma once

/// What ranks tell each other before anything else: which build of Kolo each runs, and whether it
/// can.

#include "base/config.h"
#include "base/status.h"
#include "mpi/session.h"

namespace kolo::core {

/// How long ranks wait for others to come, and where they say so.
mpi::Patience patience_of(const Config& config, int rank);

/// Collective over the session's ranks; returns when all have called it. Fails on every rank, in
/// the same words, when not all run the same build of Kolo, or when one cannot start: `ready` says
/// why not.
///
/// What other builds may lay out in another way comes afterwards. So the layout of this message
/// stays.
Status introduce(const mpi::Session& session, const Status& ready, const mpi::Patience& patience);

}  // namespace kolo::core
