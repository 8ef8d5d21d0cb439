#pragma once

/// Numbers of all ranks, for logs and decisions: `if (kolo::any(std::isnan(loss))) break;` ends the
/// loop on every rank or on none.
///
/// All are collective: every rank of the process set calls them, in the same order, from one thread
/// at a time. They cost a blocking all-reduce of a few bytes, on the CPU: numbers that are on a GPU
/// are better reduced there, as a tensor. They throw kolo::Error before init() and after
/// shutdown().

#include <kolo/process_set.h>

namespace kolo {

/// In float64, in rank order: all ranks get the same bits.
double sum(double value, const ProcessSet& process_set = {});
/// The sum, divided by the number of ranks: each counts alike, however many samples it has seen.
double mean(double value, const ProcessSet& process_set = {});

/// Whether it is true on one rank at least, and whether it is on all.
bool any(bool value, const ProcessSet& process_set = {});
bool all(bool value, const ProcessSet& process_set = {});

}  // namespace kolo
