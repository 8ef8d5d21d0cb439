#pragma once

/// Which ranks this process belongs to: what its launcher, its program and MPI say together.

#include <optional>

#include "base/config.h"
#include "base/status.h"
#include "context/context.h"
#include "mpi/session.h"

namespace kolo::core {

/// The ranks that the program names; nothing: all that there are.
using GivenRanks = std::optional<MPI_Comm>;

/// Joins the ranks, which all call it, and returns when all have. Nothing: this process is alone,
/// and MPI was not started.
///
/// Fails on all ranks when one is not `ready`, or runs another build; and where the process would
/// take itself for the only rank although a launcher has started several, or for a rank that
/// another process is.
Result<std::optional<mpi::Session>> join_job(const Config& config, const Status& ready,
                                             const GivenRanks& given);

/// As connect_to_job(), with these ranks.
Connect connect_to_ranks(const GivenRanks& given);

/// For a process that cannot start because of its settings: tells the other ranks. Returns what all
/// of them say.
Status refuse_job(const Status& reason, const GivenRanks& given);

}  // namespace kolo::core
