#pragma once

/// What the command line says.

#include <cstdint>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <vector>

#include "bench/compute.h"
#include "bench/models.h"

namespace kolo::bench {

/// A mistake of the person who typed the command: the program ends with exit code 2.
class UsageError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

enum class Subcommand { None, Allreduce, Step, Train, Negotiate, Idle };

/// Who reduces. Those after Kolo can be compared with it.
enum class Contender { Kolo, Mpi, MpiChunked, Ddp, DdpView };

enum class Dtype { Float32, Float64, Float16, BFloat16, Int32, Int64 };

/// Where Kolo's tensors are.
enum class Memory {
  Kolo,     ///< from kolo::empty()
  Private,  ///< from anywhere
};

/// What becomes of gradients before a step.
enum class ZeroGrad {
  Zero,  ///< their memory is filled with zeros
  None,  ///< they are undefined, and autograd stores new ones
};

struct ComputeTimes {
  Seconds forward{0};
  Seconds backward{0};
  Seconds optimizer{0};
};

struct Options {
  bool help = false;
  Subcommand subcommand = Subcommand::None;

  double seconds = 2;
  std::vector<Contender> against = {};
  std::filesystem::path json = {};
  std::filesystem::path plot = {};

  std::vector<std::int64_t> sizes = {};
  std::vector<Dtype> dtypes = {};
  std::vector<Memory> memories = {};

  std::vector<ModelName> models = {};
  std::vector<ZeroGrad> zero_grads = {};
  ComputeTimes compute = {};
  ComputeAs compute_as = ComputeAs::Work;

  std::int64_t batch_size = 32;
  int steps = 1;
  int threads = 1;

  int names = 62;
  /// Empty: powers of two up to the number of ranks.
  std::vector<int> set_sizes = {};

  double window = 5;
};

/// @throws UsageError with a message that names the option, the value and what would be right.
Options parse_options(int argc, const char* const* argv);

/// Kolo, and then those that it is to be compared with.
std::vector<Contender> contenders(const Options& options);

/// What `--help` prints, for all subcommands or for one.
std::string help_text(Subcommand subcommand);

std::string name_of(Subcommand subcommand);
std::string name_of(Contender contender);
std::string name_of(Dtype dtype);
std::string name_of(Memory memory);
std::string name_of(ModelName model);
std::string name_of(ZeroGrad zero_grad);
std::string name_of(ComputeAs as);

}  // namespace kolo::bench
