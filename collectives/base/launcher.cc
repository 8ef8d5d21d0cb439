#include "base/launcher.h"

#include <fmt/format.h>

#include <array>
#include <charconv>
#include <cstdint>

namespace kolo::core {
namespace {

/// What a launcher leaves in the environment of the processes that it starts.
struct Marks {
  std::string_view name;
  std::string_view rank;
  /// Empty: it does not tell. The second is for where the first is not set.
  std::string_view size;
  std::string_view other_size;
  /// Must be there as well, unless empty.
  std::string_view condition;
  bool of_mpi = false;
};

constexpr std::string_view kStep = "SLURM_STEP_ID";

/// Those inside come first. Slurm's variables are also those of the daemons that an mpirun starts
/// with srun, and so of the ranks that these start.
constexpr std::array kLaunchers = {
    Marks{"Open MPI's mpirun", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "", "", true},
    Marks{"MVAPICH's mpiexec", "MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE", "", "", true},
    Marks{"a launcher with PMI, such as MPICH's mpiexec or Slurm's srun", "PMI_RANK", "PMI_SIZE",
          "", "", true},
    Marks{"Slurm's srun with PMIx", "PMIX_RANK", "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS", kStep,
          true},
    Marks{"a launcher with PMIx", "PMIX_RANK", "", "", "", true},
    Marks{"Slurm's srun without PMIx", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS",
          kStep, false},
    Marks{"IBM's jsrun", "JSM_NAMESPACE_RANK", "JSM_NAMESPACE_SIZE", "", "", false},
    Marks{"Flux", "FLUX_TASK_RANK", "FLUX_JOB_SIZE", "", "", false},
    Marks{"torchrun", "RANK", "WORLD_SIZE", "", "TORCHELASTIC_RUN_ID", false},
    Marks{"a launcher like torchrun", "RANK", "WORLD_SIZE", "", "", false}};

std::optional<std::uint32_t> number_in(const std::optional<std::string>& text) {
  if (!text) return std::nullopt;
  std::uint32_t number = 0;
  const char* const last = text->data() + text->size();
  const auto [end, error] = std::from_chars(text->data(), last, number);
  if (error != std::errc{} || end != last) return std::nullopt;
  return number;
}

/// Numbers from here on are those of Slurm's own steps: the shell of salloc, a batch script.
constexpr std::uint32_t kFirstReservedStep = 0xffff'fff0;

bool holds(std::string_view condition, const Lookup& lookup) {
  if (condition.empty()) return true;
  if (condition != kStep) return lookup(condition).has_value();
  const auto step = number_in(lookup(kStep));
  return step && *step < kFirstReservedStep;
}

std::optional<Launcher> match(const Marks& marks, const Lookup& lookup) {
  const auto rank = number_in(lookup(marks.rank));
  if (!rank || !holds(marks.condition, lookup)) return std::nullopt;
  Launcher launcher{.name = fmt::format("{} ({})", marks.name, marks.rank),
                    .rank = static_cast<int>(*rank),
                    .of_mpi = marks.of_mpi,
                    .job = lookup("PMIX_NAMESPACE").value_or("")};
  if (marks.size.empty()) return launcher;
  std::string_view name = marks.size;
  auto size = number_in(lookup(name));
  if (!size && !marks.other_size.empty()) size = number_in(lookup(name = marks.other_size));
  if (!size) return std::nullopt;
  launcher.name = fmt::format("{} ({}, {})", marks.name, marks.rank, name);
  launcher.size = static_cast<int>(*size);
  launcher.one_host = number_in(lookup("OMPI_COMM_WORLD_LOCAL_SIZE")) == size;
  return launcher;
}

}  // namespace

std::optional<Launcher> find_launcher(const Lookup& lookup) {
  for (const Marks& marks : kLaunchers) {
    if (auto launcher = match(marks, lookup)) return launcher;
  }
  return std::nullopt;
}

std::string place_in_job(const Lookup& lookup) {
  constexpr std::array<std::string_view, 6> kNames = {
      "PMIX_NAMESPACE", "PMIX_RANK", "OMPI_COMM_WORLD_RANK", "PMI_JOBID", "PMI_FD", "PMI_RANK"};
  std::string place;
  for (const std::string_view name : kNames) {
    if (const auto value = lookup(name)) place += fmt::format(",{}={}", name, *value);
  }
  return place;
}

}  // namespace kolo::core
