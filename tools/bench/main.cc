/// Measures Kolo, on as many ranks as it is started with: see options.cc, or --help.

#include <c10/util/Exception.h>
#include <fmt/format.h>
#include <kolo/init.h>
#include <torch/utils.h>
#include <unistd.h>

#include <csignal>
#include <exception>
#include <stdexcept>

#include "bench/options.h"
#include "bench/plotting.h"
#include "bench/ranks.h"
#include "bench/reducers.h"
#include "bench/report.h"
#include "bench/subcommands.h"

namespace kolo::bench {
namespace {

void require_contenders(const Options& options, const Ranks& ranks) {
  if (options.against.empty()) return;
  if (ranks.size() == 1) {
    throw UsageError("--against needs other ranks: start it with kolorun -np 2 kolo-bench ...");
  }
  for (const Contender contender : options.against) {
    const bool is_ddp = contender == Contender::Ddp || contender == Contender::DdpView;
    if (is_ddp && why_no_ddp() != nullptr) {
      throw UsageError(fmt::format("--against {}: {}", name_of(contender), why_no_ddp()));
    }
    if (is_ddp && kolo::local_size() != kolo::size()) {
      throw UsageError(
          fmt::format("--against {}: it runs over the loopback device here, so all "
                      "ranks must be on one host",
                      name_of(contender)));
    }
  }
}

void measure(const Options& options, const Ranks& ranks, Report& report) {
  switch (options.subcommand) {
    case Subcommand::None:
      break;
    case Subcommand::Allreduce:
      return measure_allreduce(options, ranks, report);
    case Subcommand::Step:
      return measure_step(options, ranks, report);
    case Subcommand::Train:
      return measure_train(options, ranks, report);
    case Subcommand::Negotiate:
      return measure_negotiate(options, ranks, report);
    case Subcommand::Idle:
      return measure_idle(options, ranks, report);
  }
}

void run(int argc, char** argv) {
  kolo::init();
  const Options options = parse_options(argc, argv);
  const bool speaks = kolo::rank() == 0;
  if (options.help) {
    if (speaks) fmt::print("{}", help_text(options.subcommand));
    return;
  }
  const Ranks ranks = Ranks::of_job();
  require_contenders(options, ranks);
  if (speaks && !options.plot.empty()) require_plotting();
  torch::set_num_threads(options.threads);
  torch::set_num_interop_threads(options.threads);
  {
    Report report(name_of(options.subcommand), ranks.rank(), ranks.size(), options.json);
    measure(options, ranks, report);
  }
  if (speaks && !options.plot.empty()) plot(options.json, options.plot);
}

/// The others may wait for this rank in MPI, while it waits for them to leave: then mpirun ends them,
/// once they have had the time to say what they have to.
void end_in_seconds() {
  std::signal(SIGALRM, [](int /*signal*/) { _exit(1); });
  alarm(5);
}

}  // namespace
}  // namespace kolo::bench

int main(int argc, char** argv) {
  try {
    kolo::bench::run(argc, argv);
    return 0;
  } catch (const kolo::bench::UsageError& e) {
    // All ranks have it; one says it.
    if (kolo::rank() == 0) fmt::print(stderr, "kolo-bench: {}\nTry --help.\n", e.what());
    return 2;
  } catch (const c10::Error& e) {
    fmt::print(stderr, "kolo-bench: {}\n", e.what_without_backtrace());
  } catch (const std::exception& e) {
    fmt::print(stderr, "kolo-bench: {}\n", e.what());
  }
  kolo::bench::end_in_seconds();
  return 1;
}
