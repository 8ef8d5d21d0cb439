#include "bench/options.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <boost/program_options.hpp>
#include <charconv>
#include <cmath>
#include <initializer_list>
#include <optional>
#include <sstream>
#include <utility>

#include "launch/values.h"

namespace kolo::bench {
namespace {

namespace po = boost::program_options;

template <class Enum>
using Choices = std::initializer_list<std::pair<const char*, Enum>>;

constexpr Choices<Subcommand> kSubcommands = {{"allreduce", Subcommand::Allreduce},
                                              {"step", Subcommand::Step},
                                              {"train", Subcommand::Train},
                                              {"negotiate", Subcommand::Negotiate},
                                              {"idle", Subcommand::Idle}};
constexpr Choices<Contender> kContenders = {{"kolo", Contender::Kolo},
                                            {"mpi", Contender::Mpi},
                                            {"mpi-chunked", Contender::MpiChunked},
                                            {"ddp", Contender::Ddp},
                                            {"ddp-view", Contender::DdpView}};
constexpr Choices<Dtype> kDtypes = {{"float32", Dtype::Float32}, {"float64", Dtype::Float64},
                                    {"float16", Dtype::Float16}, {"bfloat16", Dtype::BFloat16},
                                    {"int32", Dtype::Int32},     {"int64", Dtype::Int64}};
constexpr Choices<Memory> kMemories = {{"kolo", Memory::Kolo}, {"private", Memory::Private}};
constexpr Choices<ModelName> kModels = {{"resnet18", ModelName::ResNet18},
                                        {"resnet50", ModelName::ResNet50},
                                        {"small", ModelName::Small}};
constexpr Choices<ZeroGrad> kZeroGrads = {{"zero", ZeroGrad::Zero}, {"none", ZeroGrad::None}};
constexpr Choices<ComputeAs> kComputeAs = {{"sleep", ComputeAs::Sleep}, {"work", ComputeAs::Work}};

constexpr const char* kUsage =
    R"(Measures Kolo, and beside it what it is compared with.

  kolorun -np 2 kolo-bench allreduce --against mpi,mpi-chunked
                                       blocking all-reduces of 4 B to 64 MiB
  kolorun -np 2 kolo-bench step --models resnet18 --against mpi,ddp
                                       what reducing the gradients adds to a training step
  kolorun -np 2 kolo-bench step --zero-grad zero,none
                                       the same for gradients that are zeroed in place, and that
                                       are undefined before each step
  kolorun -np 2 kolo-bench step --compute 5,10,1 --compute-as sleep
                                       the same, hidden behind 10 ms of backward
  kolorun -np 2 kolo-bench train --against mpi,ddp
                                       steps of a real ResNet-18, of ranks that train together and
                                       of the same ranks, each for itself
  kolorun -np 32 kolo-bench negotiate --against mpi
                                       tensors that the ranks have not agreed on before
  kolorun -np 2 kolo-bench idle        processor time with nothing to do, and while a rank is late

`kolo-bench SUBCOMMAND --help` tells a subcommand's options.

All methods run in every round, in turn first; a sample is the slowest rank's. Printed are the
median and the quartiles of the rounds, and the ratio kolo/it of each round: Kolo's time as a part
of the other's, below 1 where Kolo is faster. --json has the tails as well: p99, and max, the
slowest round. Of calls below 0.2 ms a sample is the mean of as many as take so long, so a single
one that is late by 4 ms still makes it 20 times as long.

The memory of step is what a rank has at most beyond its gradients, with what malloc keeps of what
was freed, which depends on the cases before: to compare two, give each a run of its own. "alone" is
what the model and its training take without a reducer.

train compares with the same ranks, each for itself: with the slowest of them (alone), as ranks that
train together cannot be faster, and with their mean (mean alone). "of alone" is what each method
takes in percent of that slowest rank, round by round.

negotiate --against mpi is the bare exchange: requests gathered, an answer broadcast, values summed;
and the same with a std::future for each tensor, as who submits gets a handle of Kolo's.

Results are checked against exact sums before anything is timed, by the calls that are timed then
(train: against means of the gradients that the ranks find without communication; idle: the result
of each call that waits for the late rank, when it is there; with nothing submitted there is none).
If one is wrong, nothing more is measured.

Exit codes: 0 measured, 1 failed (a wrong result, another rank), 2 wrong usage.
)";

template <class Enum>
std::string name_in(Choices<Enum> choices, Enum value) {
  for (const auto& [name, choice] : choices) {
    if (choice == value) return name;
  }
  return "none";
}

template <class Enum>
Enum choice(const char* what, const std::string& text, Choices<Enum> choices) {
  std::vector<const char*> names;
  for (const auto& [name, value] : choices) {
    if (text == name) return value;
    names.push_back(name);
  }
  throw UsageError(
      fmt::format("{} is '{}': expected one of {}", what, text, fmt::join(names, ", ")));
}

std::vector<std::string> split(const std::string& list) {
  std::vector<std::string> items;
  std::istringstream stream(list);
  for (std::string item; std::getline(stream, item, ',');) items.push_back(item);
  return items;
}

template <class Enum>
std::vector<Enum> choice_list(const char* option, const std::string& list, Choices<Enum> choices) {
  std::vector<Enum> values;
  for (const std::string& item : split(list)) values.push_back(choice(option, item, choices));
  return values;
}

std::vector<std::int64_t> parse_sizes(const std::string& list) {
  constexpr std::uint64_t kLargest = 1ULL << 40;
  std::vector<std::int64_t> sizes;
  for (const std::string& item : split(list)) {
    const std::optional<std::uint64_t> bytes = launch::parse_bytes(item);
    if (!bytes || *bytes < 4 || *bytes > kLargest) {
      throw UsageError(fmt::format(
          "--sizes has '{}': expected sizes of 4 bytes or more such as 4,64KiB,1MiB", item));
    }
    sizes.push_back(static_cast<std::int64_t>(*bytes));
  }
  return sizes;
}

std::vector<int> parse_counts(const std::string& list) {
  std::vector<int> counts;
  for (const std::string& item : split(list)) {
    const std::optional<int> count = launch::parse_count(item);
    if (!count) {
      throw UsageError(
          fmt::format("--ranks has '{}': expected numbers of ranks such as 2,4,8", item));
    }
    counts.push_back(*count);
  }
  return counts;
}

ComputeTimes parse_compute(const std::string& text) {
  std::vector<Seconds> times;
  for (const std::string& item : split(text)) {
    double milliseconds = -1;
    const char* const end = item.data() + item.size();
    const auto [stop, error] = std::from_chars(item.data(), end, milliseconds);
    if (error != std::errc{} || stop != end || !(milliseconds >= 0 && milliseconds <= 1e6)) break;
    times.emplace_back(milliseconds / 1e3);
  }
  if (times.size() != 3 || split(text).size() != 3) {
    throw UsageError(fmt::format(
        "--compute is '{}': expected the milliseconds of forward, backward and optimizer, such as "
        "5,10,1",
        text));
  }
  return {.forward = times[0], .backward = times[1], .optimizer = times[2]};
}

/// Options whose text still needs a look before it becomes a value in Options.
struct RawText {
  std::string against;
  std::string json;
  std::string plot;
  std::string sizes;
  std::string dtypes;
  std::string memories;
  std::string models;
  std::string zero_grads;
  std::string compute;
  std::string compute_as;
  std::string set_sizes;
};

void add_allreduce_options(po::options_description& group, RawText& raw) {
  auto add = group.add_options();
  add("sizes",
      po::value(&raw.sizes)
          ->value_name("LIST")
          ->default_value("4,16,64,256,1KiB,4KiB,16KiB,64KiB,256KiB,1MiB,4MiB,16MiB,64MiB"),
      "Bytes of the tensors.");
  add("dtypes", po::value(&raw.dtypes)->value_name("LIST")->default_value("float32"),
      "float32, float64, float16, bfloat16, int32, int64. MPI has no type for float16 and "
      "bfloat16.");
  add("memory", po::value(&raw.memories)->value_name("LIST")->default_value("kolo,private"),
      "Where Kolo's tensors are: kolo (from kolo::empty()), private (from LibTorch).");
}

void add_step_options(po::options_description& group, RawText& raw) {
  auto add = group.add_options();
  add("models",
      po::value(&raw.models)->value_name("LIST")->default_value("resnet18,resnet50,small"),
      "Shapes of the gradients: resnet18 (62 tensors, 45 MB), resnet50 (161, 102 MB), small (1000 "
      "of 1 KiB).");
  add("zero-grad", po::value(&raw.zero_grads)->value_name("LIST")->default_value("zero"),
      "What becomes of the gradients before each step, which is not timed: zero (filled with "
      "zeros: LibTorch 1's default), none (undefined, so that autograd stores new ones: LibTorch "
      "2's).");
  add("compute", po::value(&raw.compute)->value_name("FWD,BWD,OPT")->default_value("0,0,0"),
      "Milliseconds that forward, backward and optimizer take, spread over the layers.");
  add("compute-as", po::value(&raw.compute_as)->value_name("HOW")->default_value("work"),
      "work: on the core; sleep: as if on a device of its own.");
}

void add_train_options(po::options_description& group, Options& o) {
  auto add = group.add_options();
  add("batch-size", po::value(&o.batch_size)->value_name("N")->default_value(32),
      "Images of a rank in a step; 3x32x32 each, of noise, in memory.");
  add("steps", po::value(&o.steps)->value_name("N")->default_value(1),
      "Steps in a row, which are a sample together. Each rank for itself waits for the others only "
      "before a sample.");
  add("threads", po::value(&o.threads)->value_name("N")->default_value(1),
      "LibTorch's threads on each rank.");
}

void add_negotiate_options(po::options_description& group, Options& o, RawText& raw) {
  auto add = group.add_options();
  add("names", po::value(&o.names)->value_name("N")->default_value(62),
      "Tensors that are submitted at once.");
  add("ranks", po::value(&raw.set_sizes)->value_name("LIST"),
      "How many ranks take part (the first ones); powers of two up to all ranks by default.");
}

void add_idle_options(po::options_description& group, Options& o) {
  group.add_options()("window", po::value(&o.window)->value_name("S")->default_value(5, "5"),
                      "Seconds with nothing submitted, and that the last rank is late by.");
}

po::options_description subcommand_options(Subcommand subcommand, Options& o, RawText& raw) {
  po::options_description group(name_of(subcommand), 96);
  switch (subcommand) {
    case Subcommand::None:
      break;
    case Subcommand::Allreduce:
      add_allreduce_options(group, raw);
      break;
    case Subcommand::Step:
      add_step_options(group, raw);
      break;
    case Subcommand::Train:
      add_train_options(group, o);
      break;
    case Subcommand::Negotiate:
      add_negotiate_options(group, o, raw);
      break;
    case Subcommand::Idle:
      add_idle_options(group, o);
      break;
  }
  return group;
}

po::options_description all_options(Subcommand subcommand, Options& o, RawText& raw) {
  po::options_description common("All subcommands", 96);
  auto add = common.add_options();
  add("against", po::value(&raw.against)->value_name("LIST"),
      subcommand == Subcommand::Negotiate
          ? "Compare with: mpi (the same messages and nothing else: MPI_Gather of what is asked "
            "for, MPI_Bcast of the answer, one MPI_Allreduce)."
          : "Compare with: mpi (MPI_Allreduce), mpi-chunked (the same, 4 MiB a call), ddp "
            "(DistributedDataParallel's c10d::Reducer over Gloo), ddp-view (step and train "
            "only: with gradient_as_bucket_view).");
  const int seconds = subcommand == Subcommand::Train ? 120 : 2;
  add("seconds",
      po::value(&o.seconds)->value_name("S")->default_value(seconds, std::to_string(seconds)),
      "Time for each case (train: 120 by default); slow ones take longer, because ten rounds are "
      "the least (idle: three).");
  add("json", po::value(&raw.json)->value_name("FILE"),
      "Write the results, a JSON object a line: labels, p25, median, p75, p99, max, n (rounds).");
  add("plot", po::value(&raw.plot)->value_name("FILE.svg|png"),
      "Draw the results that --json writes. Needs Python's matplotlib.");
  add("help,h", po::bool_switch(&o.help), "Print this text.");
  po::options_description all;
  if (subcommand != Subcommand::None) all.add(subcommand_options(subcommand, o, raw));
  return all.add(common);
}

void require(bool good, const char* option, auto value, const char* expected) {
  if (!good) throw UsageError(fmt::format("--{} is {}: expected {}", option, value, expected));
}

/// Of what is measured; none to compare with, or no numbers of ranks, have a meaning.
void require_items(const po::variables_map& values) {
  for (const char* list : {"sizes", "dtypes", "memory", "models", "zero-grad"}) {
    const bool is_empty = values.count(list) > 0 && values[list].as<std::string>().empty();
    require(!is_empty, list, "empty", "at least one");
  }
}

void check_against(const Options& o) {
  for (const Contender contender : o.against) {
    if (contender == Contender::Kolo) {
      throw UsageError("--against kolo: Kolo is always measured; name what to compare it with");
    }
    if (o.subcommand == Subcommand::Negotiate && contender != Contender::Mpi) {
      throw UsageError(
          fmt::format("negotiate --against {}: expected mpi, as nobody else agrees on names",
                      name_of(contender)));
    }
    const bool trains = o.subcommand == Subcommand::Step || o.subcommand == Subcommand::Train;
    if (contender == Contender::DdpView && !trains) {
      throw UsageError("--against ddp-view is for step and train only: here it is the same as ddp");
    }
    const bool is_mpi = contender == Contender::Mpi || contender == Contender::MpiChunked;
    for (const Dtype dtype : o.dtypes) {
      if (is_mpi && (dtype == Dtype::Float16 || dtype == Dtype::BFloat16)) {
        throw UsageError(fmt::format("--against {}: MPI has no {}; leave out one of the two",
                                     name_of(contender), name_of(dtype)));
      }
      if (contender == Contender::Ddp && dtype == Dtype::BFloat16) {
        throw UsageError("--against ddp: Gloo has no bfloat16; leave out one of the two");
      }
    }
  }
}

void check_values(const Options& o) {
  require(std::isfinite(o.seconds) && o.seconds > 0, "seconds", o.seconds, "a number above 0");
  require(std::isfinite(o.window) && o.window > 0, "window", o.window, "a number above 0");
  require(o.batch_size >= 1 && o.batch_size <= 65'536, "batch-size", o.batch_size, "1 to 65536");
  require(o.steps >= 1 && o.steps <= 100'000, "steps", o.steps, "1 to 100000");
  require(o.threads >= 1 && o.threads <= 4096, "threads", o.threads, "1 to 4096");
  require(o.names >= 1 && o.names <= 100'000, "names", o.names, "1 to 100000");
  check_against(o);
  if (o.plot.empty()) return;
  if (o.json.empty()) throw UsageError("--plot draws what --json writes: add --json FILE");
  const std::string extension = o.plot.extension().string();
  require(extension == ".png" || extension == ".svg", "plot", o.plot.string(),
          "a file name that ends in .png or .svg");
}

Options interpret(Options o, const RawText& raw) {
  o.against = choice_list("--against", raw.against, kContenders);
  o.json = raw.json;
  o.plot = raw.plot;
  o.sizes = parse_sizes(raw.sizes);
  o.dtypes = choice_list("--dtypes", raw.dtypes, kDtypes);
  o.memories = choice_list("--memory", raw.memories, kMemories);
  o.models = choice_list("--models", raw.models, kModels);
  o.zero_grads = choice_list("--zero-grad", raw.zero_grads, kZeroGrads);
  if (o.subcommand == Subcommand::Step) {
    o.compute = parse_compute(raw.compute);
    o.compute_as = choice("--compute-as", raw.compute_as, kComputeAs);
  }
  o.set_sizes = parse_counts(raw.set_sizes);
  check_values(o);
  return o;
}

}  // namespace

Options parse_options(int argc, const char* const* argv) {
  Options options;
  std::vector<std::string> words(argv + std::min(argc, 1), argv + argc);
  if (words.empty()) throw UsageError("no subcommand is given");
  if (!words.front().starts_with('-')) {
    options.subcommand = choice("the subcommand", words.front(), kSubcommands);
    words.erase(words.begin());
  }
  RawText raw;
  const po::options_description known = all_options(options.subcommand, options, raw);
  const int style = po::command_line_style::default_style & ~po::command_line_style::allow_guessing;
  po::variables_map values;
  try {
    po::store(po::command_line_parser(words).options(known).positional({}).style(style).run(),
              values);
    po::notify(values);
  } catch (const po::error& e) {
    throw UsageError(e.what());
  }
  if (options.help) return options;
  if (options.subcommand == Subcommand::None) {
    throw UsageError("no subcommand is given: it comes before the options");
  }
  require_items(values);
  return interpret(std::move(options), raw);
}

std::vector<Contender> contenders(const Options& options) {
  std::vector<Contender> all = {Contender::Kolo};
  all.insert(all.end(), options.against.begin(), options.against.end());
  return all;
}

std::string help_text(Subcommand subcommand) {
  Options options;
  RawText raw;
  std::ostringstream text;
  if (subcommand == Subcommand::None) text << kUsage;
  text << all_options(subcommand, options, raw);
  return text.str();
}

std::string name_of(Subcommand subcommand) { return name_in(kSubcommands, subcommand); }
std::string name_of(Contender contender) { return name_in(kContenders, contender); }
std::string name_of(Dtype dtype) { return name_in(kDtypes, dtype); }
std::string name_of(Memory memory) { return name_in(kMemories, memory); }
std::string name_of(ModelName model) { return name_in(kModels, model); }
std::string name_of(ZeroGrad zero_grad) { return name_in(kZeroGrads, zero_grad); }
std::string name_of(ComputeAs as) { return name_in(kComputeAs, as); }

}  // namespace kolo::bench
