#pragma once

/// What the command line and the config file say.

#include <cstdint>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <vector>

namespace resnet_example {

/// A mistake of the person who typed the command: the program ends with exit code 2.
class UsageError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

enum class DatasetChoice { Auto, Cifar10, FashionMnist };
enum class LrScaling { None, Sqrt, Linear };
enum class Amp { Off, BFloat16, Float16 };

struct Options {
  bool help = false;

  DatasetChoice dataset = DatasetChoice::Auto;
  std::filesystem::path data_dir = {};
  bool download = false;
  std::int64_t limit_train = 0;  ///< 0: all
  std::int64_t limit_test = 0;   ///< 0: all
  bool augment = true;
  int workers = 2;

  int epochs = 5;
  std::int64_t batch_size = 128;
  double lr = 0.1;
  LrScaling lr_scaling = LrScaling::Sqrt;
  std::vector<int> lr_milestones = {30, 60, 90};
  double lr_gamma = 0.1;
  int warmup_epochs = 0;
  double momentum = 0.9;
  double weight_decay = 5e-4;
  Amp amp = Amp::Off;
  std::uint64_t seed = 1;

  int threads = 0;  ///< 0: choose
  std::filesystem::path history = {};
  std::filesystem::path checkpoint_dir = {};
  bool resume = false;
  int log_every = 10;
};

/// @throws UsageError with a message that names the option, the value and what would be right.
Options parse_options(int argc, const char* const* argv);

/// What `--help` prints.
std::string help_text();

const char* name_of(LrScaling scaling);
const char* name_of(Amp amp);

}  // namespace resnet_example
