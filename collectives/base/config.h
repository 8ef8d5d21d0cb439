#pragma once

/// Every setting, and the only place that reads the environment.

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/launcher.h"
#include "base/status.h"

namespace kolo::core {

constexpr std::int64_t kDefaultFusionThreshold = std::int64_t{64} << 20;

/// What follows when an optimizer's options or parameters differ between ranks.
enum class CheckEqual { Off, Warn, Error };

struct Config {
  /// KOLO_FUSION_THRESHOLD, bytes (suffixes KiB, MiB, GiB): tensors are fused into buffers of at
  /// most this size. 0 turns fusion off. Without it, into such of kDefaultFusionThreshold bytes;
  /// and groups of gradients follow from measurement.
  std::optional<std::int64_t> fusion_threshold;

  /// KOLO_TIMELINE, a file: write a Chrome trace of every rank there. Empty: none.
  std::string timeline;

  /// KOLO_LOG_LEVEL: trace, debug, info, warning, error or off.
  std::string log_level = "warning";

  /// KOLO_SHARED_MEMORY, auto or off: whether the ranks of a host exchange what they can through
  /// memory that they share. With auto they use MPI if one of them cannot, and say so.
  bool shared_memory = true;

  /// KOLO_SHARED_GPU, on or off: whether several ranks may use one GPU, which NCCL does not like, and is
  /// slow.
  bool shared_gpu = false;

  /// KOLO_GPU_BETWEEN_HOSTS, nccl or mpi: what carries all-reduces and broadcasts of GPUs' memory
  /// between hosts. With mpi NCCL carries them within each host.
  bool gpu_over_mpi = false;

  /// KOLO_CHECK_EQUAL, off, warn or error: whether ranks compare their optimizers' options in each step, and
  /// their parameters in some.
  CheckEqual check_equal = CheckEqual::Error;

  /// KOLO_STALL_WARNING_SECONDS: report tensors that some ranks have submitted and others have not
  /// after this time. 0: never.
  std::chrono::duration<double> stall_warning = std::chrono::seconds(60);

  /// KOLO_STALL_ABORT_SECONDS: fail such tensors, on every rank, after this time. 0: never.
  std::chrono::duration<double> stall_abort = std::chrono::seconds(0);

  /// KOLO_ALONE, 1 or 0: this process is the only rank, whoever has started it.
  bool alone = false;

  /// A rank all of whose threads have waited so long for other ranks says so (engine/circle.h). For tests.
  std::chrono::duration<double> circle_after = std::chrono::seconds(1);

  /// NCCL's settings that ranks are to have alike: a line `NAME=value` for each, in the order of names.
  /// Not those that are about messages, files, or a host's devices.
  std::string nccl;

  /// Reads `KOLO_*`. Fails, naming variable, value and what is accepted, on a value that makes no
  /// sense, and on an unknown KOLO_ variable, which would otherwise be a setting silently ignored. Those
  /// that Kubernetes makes for services called kolo, or kolo-something, are none.
  static Result<Config> from_environment();
};

std::string_view to_string(CheckEqual check);

/// See find_launcher().
std::optional<Launcher> launcher_of_this_process();

/// Writes into this process's environment that it has its place in a job, for the programs that it
/// starts, which inherit the launcher's variables. MPI writes there, too, when it starts.
void mark_as_rank();

/// Whether this process was started by a rank, whose place the environment gives it.
bool has_place_of_its_parent();

}  // namespace kolo::core
