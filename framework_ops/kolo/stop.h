#pragma once

/// To stop in order when the job is told to end: save, and return from main.

#include <kolo/process_set.h>

namespace kolo {

/// Whether any rank was told to stop, by SIGTERM or SIGINT; from then on it stays true. All ranks
/// get the same answer, so all stop at the same step:
///
///   if (kolo::stop_requested()) break;  // and save
///
/// The first call installs handlers for both signals: a signal that came before has ended the
/// process. A handler that the program has installed by then is called, too; a signal that it
/// ignores stays ignored. Where the program has none, another signal, a second or more after the
/// first, ends the process as ever.
///
/// Collective: every rank of the process set calls it, as often as the others, in the same order as
/// its other collectives. It costs a blocking all-reduce of one byte: some microseconds within a
/// host, a latency of the network between hosts.
///
/// @throws kolo::Error before init() and after shutdown().
bool stop_requested(const ProcessSet& process_set = {});

}  // namespace kolo
