#include "launch/option_table.h"

#include <sstream>
#include <string_view>
#include <vector>

namespace kolo::launch {
namespace {

namespace po = boost::program_options;
using Words = std::vector<std::string>;

constexpr std::string_view kUsage =
    R"(Starts a Kolo program on N ranks, here or on several hosts, by Open MPI's mpirun.

Usage:
  kolorun [options] program [arguments of the program]

Examples:
  kolorun -np 2 ./train --epochs 3           two ranks on this machine
  kolorun -np 4 -H node1:2,node2:2 ./train   two ranks on each of two hosts
  kolorun --hostfile hosts.txt ./train       one rank for each slot of the file
  kolorun -np 2 --timeline-filename t.json ./train
                                             a timeline for ui.perfetto.dev
  kolorun -np 4 --tag-output ./train         "[rank] " before each line
  kolorun -np 4 --dry-run ./train            only prints the mpirun line

The options end at the first word that is not one, or at --.
)";

constexpr std::string_view kNotes = R"(
What the ranks get:
  Every variable that begins with KOLO_ (an option above overrides its variable),
  NCCL_, CUDA_, UCX_, OMP_, MKL_, TORCH_ or ATEN_; PATH, LD_LIBRARY_PATH and
  PYTHONPATH; and what -x names. Unless you set it, OMP_NUM_THREADS shares this
  machine's CPUs between the ranks of a host; remote hosts are taken to be alike.
  When several ranks run on this machine alone and its CPUs can be shared evenly,
  each rank is bound to its own. The program and kolorun must be at the same path
  on all hosts, and ssh to them must ask for nothing.

Signals:
  SIGINT (Ctrl-C) and SIGTERM go to every rank, and SIGHUP as SIGTERM: the ranks
  have --grace seconds to save their work and end. Another signal ends them at
  once. SIGUSR1 and SIGUSR2 go to every rank.

Config file (--config):
  One 'name = value' a line, '#' begins a comment; the command line wins.
    np = 4
    hosts = node1:2,node2:2
    fusion-threshold = 64MiB

Environment of kolorun itself:
  KOLO_MPIRUN   the mpirun to use instead of the first one in PATH

Exit code:
  0 when every rank ended well; otherwise that of the first rank that failed, or
  128 + the signal that ended it. When a signal stops kolorun, 128 + that signal
  (Ctrl-C: 130; a second one ends everything at once). 2 when kolorun could not
  start the program; the message says what to do.
)";

po::typed_value<std::string>* text(const char* name) {
  return po::value<std::string>()->value_name(name);
}

po::options_description placement_options() {
  po::options_description options("What to run, and where");
  options.add_options()  //
      ("np,n", text("N"),
       "number of ranks, also -np, --num-proc (default: all slots of the hosts given, else 1)")  //
      ("hosts,H", text("LIST"),
       "host:slots,... in the order to fill them, but this machine first; a host without slots "
       "takes one rank, an IPv6 address stands in brackets: [fe80::1]:2 (default: this machine)")  //
      (
          "hostfile", text("FILE"),
          "the hosts as a file: 'host', 'host:slots' or 'host slots=N' a line, '#' begins a "
          "comment")  //
      ("bind", text("TO"),
       "none, core or numa: what a rank is bound to (default: CPUs of its own, where all ranks are "
       "here and there are enough)")  //
      ("env,x", po::value<Words>()->value_name("NAME[=VALUE]")->composing(),
       "a variable for all ranks, besides those below; may be given several times");
  return options;
}

po::options_description output_options() {
  po::options_description options("Output");
  options.add_options()                                                                           //
      ("tag-output", po::bool_switch(), "the rank before each line, and no line within another")  //
      ("output-dir", text("DIR"),
       "what each rank prints also as a file there: rank.0, rank.1, ...");
  return options;
}

po::options_description start_options() {
  po::options_description options("Start and end");
  options.add_options()  //
      ("network-interface", text("NAME"),
       "the interface between hosts, for Open MPI and NCCL, for example eth0")  //
      ("ssh-port", text("PORT"), "port of ssh on the other hosts")              //
      ("ssh-identity", text("FILE"), "private key for ssh")                     //
      ("start-timeout", text("SECONDS"),
       "end the job, and name what is missing, when not all ranks run by then (default: 120)")  //
      ("grace", text("SECONDS"),
       "time that ranks have to end after SIGINT, SIGTERM or SIGHUP (default: 30)")  //
      ("mpirun-args", text("ARGUMENTS"), "more options of mpirun, quoted as for a shell");
  return options;
}

po::options_description kolo_options() {
  po::options_description options("Settings of Kolo");
  options.add_options()                                                                  //
      ("timeline-filename", text("FILE"), "write a Chrome trace there (KOLO_TIMELINE)")  //
      ("fusion-threshold", text("BYTES"),
       "bytes of gradients that travel together, for example 64MiB (KOLO_FUSION_THRESHOLD)")  //
      ("log-level", text("LEVEL"), "trace, debug, info, warning, error or off (KOLO_LOG_LEVEL)");
  return options;
}

po::options_description launcher_options() {
  po::options_description options("About kolorun itself");
  options.add_options()                                                                           //
      ("config", text("FILE"), "read options from a file: all but those of this group")           //
      ("dry-run", po::bool_switch(), "print the mpirun line, ready to paste, and start nothing")  //
      ("verbose", po::bool_switch(),
       "print the mpirun line before it runs, and all that mpirun says")  //
      ("version", po::bool_switch(), "print the version")                          //
      ("help,h", po::bool_switch(), "print this text");
  return options;
}

}  // namespace

po::options_description run_options() {
  po::options_description options;
  options.add(placement_options()).add(output_options()).add(start_options()).add(kolo_options());
  return options;
}

po::options_description all_options() { return run_options().add(launcher_options()); }

std::string help_text() {
  std::ostringstream text;
  text << kUsage << run_options() << launcher_options() << kNotes;
  return text.str();
}

}  // namespace kolo::launch
