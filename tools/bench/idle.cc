#include <kolo/ops.h>
#include <torch/torch.h>

#include <chrono>
#include <memory>
#include <thread>

#include "bench/compute.h"
#include "bench/reducers.h"
#include "bench/sampling.h"
#include "bench/subcommands.h"

namespace kolo::bench {
namespace {

constexpr std::size_t kFewestRounds = 3;

/// The part of a core that this process uses while `body` runs, in percent.
template <class Body>
double percent_of_core(Body body) {
  const auto begin = std::chrono::steady_clock::now();
  const Seconds used = process_cpu_time();
  body();
  const Seconds elapsed = std::chrono::steady_clock::now() - begin;
  return 100 * (process_cpu_time() - used) / elapsed;
}

double with_nothing_submitted(Seconds window) {
  kolo::barrier();
  return percent_of_core([window] { std::this_thread::sleep_for(window); });
}

/// The last rank comes late; the others wait for it.
double waiting_for_a_late_rank(Reducer& reducer, torch::Tensor tensor, Seconds window,
                               const Ranks& ranks) {
  ranks.barrier();
  const bool late = ranks.rank() == ranks.size() - 1;
  if (late) std::this_thread::sleep_for(window);
  const double used = percent_of_core([&] { reducer.allreduce(tensor); });
  return late ? 0 : used;
}

}  // namespace

void measure_idle(const Options& options, const Ranks& ranks, Report& report) {
  const Seconds window(options.window);
  const Budget budget{.seconds = options.seconds, .fewest_rounds = kFewestRounds};
  Labels labels = {{"state", "idle"}};
  report.announce(labels);
  report.add(
      labels, "processor", "%",
      take_samples({{"kolo", [&] { return with_nothing_submitted(window); }}}, budget, ranks));
  if (ranks.size() == 1) return;

  labels = {{"state", "waiting"}};
  report.announce(labels);
  std::vector<std::unique_ptr<Reducer>> reducers;
  std::vector<Method> methods;
  for (const Contender contender : contenders(options)) {
    reducers.push_back(make_reducer(contender, ranks));
    methods.push_back({name_of(contender), [&, reducer = reducers.back().get()] {
                         return waiting_for_a_late_rank(*reducer, torch::zeros({1}), window, ranks);
                       }});
  }
  report.add(labels, "processor", "%", take_samples(methods, budget, ranks));
}

}  // namespace kolo::bench
