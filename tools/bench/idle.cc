#include <kolo/ops.h>
#include <torch/torch.h>

#include <chrono>
#include <memory>
#include <string>
#include <thread>

#include "bench/check.h"
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

/// All-reduces to which the last rank comes late: the others wait for it.
class LateRank {
 public:
  LateRank(Contender contender, Seconds window, const Ranks& ranks)
      : name_(name_of(contender)),
        reducer_(make_reducer(contender, ranks)),
        window_(window),
        ranks_(ranks) {}

  double percent_of_waiting() {
    const bool late = ranks_.rank() == ranks_.size() - 1;
    double used = 0;
    double value = 0;
    const auto wrong = check_sum({&value, 1}, calls_++, ranks_.rank(), ranks_.size(), [&] {
      torch::Tensor tensor = torch::full({1}, value);
      ranks_.barrier();
      if (late) std::this_thread::sleep_for(window_);
      used = percent_of_core([&] { reducer_->allreduce(tensor); });
      value = tensor.item<float>();
    });
    require_right(name_, wrong, ranks_);
    return late ? 0 : used;
  }

 private:
  const std::string name_;
  const std::unique_ptr<Reducer> reducer_;
  const Seconds window_;
  const Ranks& ranks_;
  std::size_t calls_ = 0;
};

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
  std::vector<std::unique_ptr<LateRank>> late_ranks;
  std::vector<Method> methods;
  for (const Contender contender : contenders(options)) {
    late_ranks.push_back(std::make_unique<LateRank>(contender, window, ranks));
    methods.push_back({name_of(contender),
                       [late = late_ranks.back().get()] { return late->percent_of_waiting(); }});
  }
  report.add(labels, "processor", "%", take_samples(methods, budget, ranks));
}

}  // namespace kolo::bench
