#include "options.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <boost/program_options.hpp>
#include <cmath>
#include <fstream>
#include <initializer_list>
#include <sstream>
#include <utility>

namespace resnet_example {
namespace {

namespace po = boost::program_options;

template <class Enum>
using Choices = std::initializer_list<std::pair<const char*, Enum>>;

constexpr Choices<DatasetChoice> kDatasets = {{"auto", DatasetChoice::Auto},
                                              {"cifar10", DatasetChoice::Cifar10},
                                              {"fashion-mnist", DatasetChoice::FashionMnist}};
constexpr Choices<LrScaling> kScalings = {
    {"none", LrScaling::None}, {"sqrt", LrScaling::Sqrt}, {"linear", LrScaling::Linear}};

constexpr Choices<Amp> kAmps = {{"off", Amp::Off}, {"bf16", Amp::BFloat16}, {"fp16", Amp::Float16}};

template <class Enum>
Enum choice(const char* option, const std::string& text, Choices<Enum> choices) {
  std::vector<const char*> names;
  for (const auto& [name, value] : choices) {
    if (text == name) return value;
    names.push_back(name);
  }
  throw UsageError(
      fmt::format("--{} is '{}': expected one of {}", option, text, fmt::join(names, ", ")));
}

template <class Enum>
const char* name_in(Choices<Enum> choices, Enum wanted) {
  for (const auto& [name, value] : choices) {
    if (value == wanted) return name;
  }
  return "?";
}

std::vector<int> parse_milestones(const std::string& text) {
  std::vector<int> milestones;
  if (text == "none") return milestones;
  std::istringstream stream(text);
  for (std::string item; std::getline(stream, item, ',');) {
    std::size_t used = 0;
    int epoch = 0;
    try {
      epoch = std::stoi(item, &used);
    } catch (const std::exception&) {
      used = 0;
    }
    const int previous = milestones.empty() ? 0 : milestones.back();
    if (used == 0 || used != item.size() || epoch <= previous) {
      throw UsageError(fmt::format(
          "--lr-milestones is '{}': expected ascending epoch numbers such as 30,60,90, or none",
          text));
    }
    milestones.push_back(epoch);
  }
  return milestones;
}

/// Options whose text still needs a look before it becomes a value in Options.
struct RawText {
  std::string config;
  std::string dataset;
  std::string data_dir;
  std::string lr_scaling;
  std::string lr_milestones;
  std::string amp;
  std::string history;
  std::string checkpoint_dir;
  std::int64_t seed = 1;
};

po::options_description data_options(Options& o, RawText& raw) {
  po::options_description group("Data", 96);
  auto add = group.add_options();
  add("dataset", po::value(&raw.dataset)->value_name("NAME")->default_value("auto"),
      "auto, cifar10 or fashion-mnist. auto takes what --data-dir holds, CIFAR-10 with --download, "
      "and Fashion-MNIST otherwise.");
  add("data-dir", po::value(&raw.data_dir)->value_name("DIR"),
      "Folder of the data files: CIFAR-10's binary files (there or in its subfolder "
      "cifar-10-batches-bin), or Fashion-MNIST's four .gz files. Without it: ./data for CIFAR-10; "
      "for Fashion-MNIST the place where Debian's package dataset-fashion-mnist puts it.");
  add("download", po::bool_switch(&o.download),
      "Fetch CIFAR-10 (162 MiB) into the data folder when it is not there yet.");
  add("limit-train", po::value(&o.limit_train)->value_name("N")->default_value(0),
      "Use only the first N training images (0: all).");
  add("limit-test", po::value(&o.limit_test)->value_name("N")->default_value(0),
      "Use only the first N test images (0: all).");
  add("augment",
      po::value(&o.augment)
          ->value_name("BOOL")
          ->default_value(true, "true")
          ->implicit_value(true, "true"),
      "Random crops and flips of the training images; --no-augment turns them off.");
  add("workers", po::value(&o.workers)->value_name("N")->default_value(2),
      "Threads that prepare batches on each rank (0: the training thread does). The numbers do "
      "not depend on it.");
  return group;
}

po::options_description training_options(Options& o, RawText& raw) {
  po::options_description group("Training", 96);
  auto add = group.add_options();
  add("epochs", po::value(&o.epochs)->value_name("N")->default_value(5), "Passes over the data.");
  add("batch-size", po::value(&o.batch_size)->value_name("N")->default_value(128),
      "Images of a step on each rank.");
  add("lr", po::value(&o.lr)->value_name("X")->default_value(0.1, "0.1"),
      "Learning rate for one rank.");
  add("lr-scaling", po::value(&raw.lr_scaling)->value_name("RULE")->default_value("sqrt"),
      "How --lr grows with the number of ranks: none, sqrt or linear.");
  add("lr-milestones", po::value(&raw.lr_milestones)->value_name("LIST")->default_value("30,60,90"),
      "Epochs after which the learning rate is multiplied by --lr-gamma, or none.");
  add("lr-gamma", po::value(&o.lr_gamma)->value_name("X")->default_value(0.1, "0.1"),
      "Factor at each milestone.");
  add("warmup-epochs", po::value(&o.warmup_epochs)->value_name("N")->default_value(0),
      "Epochs in which the learning rate rises step by step to its full value.");
  add("momentum", po::value(&o.momentum)->value_name("X")->default_value(0.9, "0.9"),
      "Momentum of SGD.");
  add("weight-decay", po::value(&o.weight_decay)->value_name("X")->default_value(5e-4, "0.0005"),
      "Weight decay of SGD.");
  add("amp", po::value(&raw.amp)->value_name("PRECISION")->default_value("off"),
      "Compute convolutions and products in bf16 or, on GPUs, in fp16 with a loss that is scaled "
      "as "
      "gradients bear it; off: all in float32. Parameters and gradients stay float32.");
  add("seed", po::value(&raw.seed)->value_name("N")->default_value(1),
      "Start of all random numbers.");
  return group;
}

po::options_description running_options(Options& o, RawText& raw) {
  po::options_description group("Running", 96);
  auto add = group.add_options();
  add("threads", po::value(&o.threads)->value_name("N")->default_value(0),
      "LibTorch's threads on each rank (0: OMP_NUM_THREADS, or the host's cores shared among its "
      "ranks). The last bits of the numbers depend on it.");
  add("history", po::value(&raw.history)->value_name("FILE.csv"),
      "Write one line an epoch: loss, accuracy, speed, and the seconds that each part of the "
      "steps took.");
  add("checkpoint-dir", po::value(&raw.checkpoint_dir)->value_name("DIR"),
      "Write a checkpoint after every epoch, and keep the newest two. On several hosts only rank 0 "
      "needs the folder.");
  add("resume", po::bool_switch(&o.resume),
      "Go on from the newest checkpoint in --checkpoint-dir, on CPUs to the same bits as without "
      "the "
      "break; starts anew when there is none.");
  add("log-every", po::value(&o.log_every)->value_name("N")->default_value(10),
      "Steps between two lines of output; on a terminal there is a progress bar instead.");
  add("config", po::value(&raw.config)->value_name("FILE"),
      "Read options from a file of lines 'name = value'; the command line wins.");
  add("help,h", po::bool_switch(&o.help), "Print this text.");
  return group;
}

po::options_description all_options(Options& options, RawText& raw) {
  po::options_description all;
  all.add(data_options(options, raw));
  all.add(training_options(options, raw));
  all.add(running_options(options, raw));
  return all;
}

void require(bool good, const char* option, auto value, const char* expected) {
  if (!good) throw UsageError(fmt::format("--{} is {}: expected {}", option, value, expected));
}

void check_values(const Options& o, const RawText& raw) {
  require(o.epochs >= 1, "epochs", o.epochs, "1 or more");
  require(o.batch_size >= 1, "batch-size", o.batch_size, "1 or more");
  require(o.limit_train >= 0, "limit-train", o.limit_train, "0 (all) or more");
  require(o.limit_test >= 0, "limit-test", o.limit_test, "0 (all) or more");
  require(o.workers >= 0 && o.workers <= 256, "workers", o.workers, "0 to 256");
  require(o.threads >= 0 && o.threads <= 4096, "threads", o.threads, "0 (choose) to 4096");
  require(o.log_every >= 1, "log-every", o.log_every, "1 or more");
  require(o.warmup_epochs >= 0, "warmup-epochs", o.warmup_epochs, "0 or more");
  require(raw.seed >= 0, "seed", raw.seed, "0 or more");
  require(std::isfinite(o.lr) && o.lr > 0, "lr", o.lr, "a number above 0");
  require(o.lr_gamma > 0 && o.lr_gamma <= 1, "lr-gamma", o.lr_gamma, "a number in (0, 1]");
  require(o.momentum >= 0 && o.momentum < 1, "momentum", o.momentum, "a number in [0, 1)");
  require(std::isfinite(o.weight_decay) && o.weight_decay >= 0, "weight-decay", o.weight_decay,
          "a number of 0 or more");
  if (o.resume && o.checkpoint_dir.empty()) {
    throw UsageError("--resume needs --checkpoint-dir, the folder to resume from");
  }
  if (o.download && o.dataset == DatasetChoice::FashionMnist) {
    throw UsageError("--download fetches CIFAR-10 only: leave out --dataset fashion-mnist");
  }
}

void read_config(const std::string& path, const po::options_description& known,
                 po::variables_map& values) {
  std::ifstream file(path);
  // An open folder is a good stream until it is read.
  if (!file || std::filesystem::is_directory(path)) {
    throw UsageError(fmt::format("--config {}: the file cannot be read", path));
  }
  try {
    po::store(po::parse_config_file(file, known), values);
  } catch (const po::error& e) {
    throw UsageError(fmt::format("--config {}: {}", path, e.what()));
  }
}

/// `--no-augment` is another way to write `--augment=false`.
std::pair<std::string, std::string> negation(const std::string& argument) {
  if (argument == "--no-augment") return {"augment", "false"};
  return {};
}

}  // namespace

Options parse_options(int argc, const char* const* argv) {
  Options options;
  RawText raw;
  const po::options_description known = all_options(options, raw);
  const int style = po::command_line_style::default_style & ~po::command_line_style::allow_guessing;
  try {
    po::variables_map values;
    po::store(po::command_line_parser(argc, argv)
                  .options(known)
                  .positional({})
                  .style(style)
                  .extra_parser(negation)
                  .run(),
              values);
    if (values.count("config") > 0) read_config(values["config"].as<std::string>(), known, values);
    po::notify(values);
  } catch (const po::error& e) {
    throw UsageError(e.what());
  }
  options.dataset = choice("dataset", raw.dataset, kDatasets);
  options.lr_scaling = choice("lr-scaling", raw.lr_scaling, kScalings);
  options.amp = choice("amp", raw.amp, kAmps);
  options.lr_milestones = parse_milestones(raw.lr_milestones);
  options.data_dir = raw.data_dir;
  options.history = raw.history;
  options.checkpoint_dir = raw.checkpoint_dir;
  check_values(options, raw);
  options.seed = static_cast<std::uint64_t>(raw.seed);
  return options;
}

std::string help_text() {
  Options options;
  RawText raw;
  std::ostringstream text;
  text << "Trains ResNet-18 on images of 32x32 with as many ranks as it is started with.\n"
          "\n"
          "  resnet18_cifar10                      one process, Fashion-MNIST, 5 epochs\n"
          "  kolorun -np 2 resnet18_cifar10 --download\n"
          "                                        two ranks, CIFAR-10 fetched into ./data\n"
          "  mpirun -np 4 resnet18_cifar10 --data-dir ~/cifar --epochs 100 --history run.csv\n"
          "                                        the whole schedule, figures of each epoch in a "
          "file\n"
          "  resnet18_cifar10 --limit-train 2000 --limit-test 1000 --batch-size 32 --lr 0.02\n"
          "                                        a first look within minutes on a small machine\n"
          "  resnet18_cifar10 --checkpoint-dir ckpt --resume\n"
          "                                        a run that can be broken off and started again\n"
       << all_options(options, raw)
       << "\nExit codes: 0 trained, 1 failed (data, network, disk, another rank), 2 wrong usage.\n";
  return text.str();
}

const char* name_of(LrScaling scaling) { return name_in(kScalings, scaling); }

const char* name_of(Amp amp) { return name_in(kAmps, amp); }

}  // namespace resnet_example
