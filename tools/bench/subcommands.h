#pragma once

/// What kolo-bench can measure. Each is collective, and throws std::runtime_error for a wrong
/// result.

#include "bench/options.h"
#include "bench/ranks.h"
#include "bench/report.h"

namespace kolo::bench {

/// Blocking all-reduces by size, dtype and memory.
void measure_allreduce(const Options& options, const Ranks& ranks, Report& report);

/// What reducing gradients adds to a training step, in time and in memory.
void measure_step(const Options& options, const Ranks& ranks, Report& report);

/// What training a real network together costs, against the same ranks without communication.
void measure_train(const Options& options, const Ranks& ranks, Report& report);

/// Tensors whose names the ranks have not agreed on before.
void measure_negotiate(const Options& options, const Ranks& ranks, Report& report);

/// Processor time with nothing submitted, and while one rank is late.
void measure_idle(const Options& options, const Ranks& ranks, Report& report);

}  // namespace kolo::bench
