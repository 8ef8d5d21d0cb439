#include "context/job.h"

#include <fmt/format.h>

#include "base/launcher.h"
#include "context/introduction.h"

namespace kolo::core {
namespace {

bool mpi_has_started() {
  int started = 0;
  MPI_Initialized(&started);
  return started != 0;
}

std::string number_of_ranks(const Launcher& launcher) {
  return launcher.size == 0 ? std::to_string(launcher.rank)
                            : fmt::format("{} of {}", launcher.rank, launcher.size);
}

Status wrong_launcher(const Launcher& launcher) {
  return Status::error(
      fmt::format("{} has started this process as rank {}, but for the MPI that Kolo uses, {}, it "
                  "is alone: each of "
                  "the processes would be rank 0 of 1, and train a model of its own. Start the "
                  "program with kolorun, or "
                  "with the mpirun of that MPI; or insist with KOLO_ALONE=1.",
                  launcher.name, number_of_ranks(launcher), mpi::library_name()));
}

Status place_is_taken() {
  return Status::error(
      "this process was started by a rank of a Kolo job, whose place among the ranks it has "
      "inherited and "
      "cannot take. Start it with kolorun, which gives it ranks of its own, or with KOLO_ALONE=1, "
      "for it to "
      "be the only rank.");
}

}  // namespace

Result<std::optional<mpi::Session>> join_job(const Config& config, const Status& ready,
                                             const GivenRanks& given) {
  const auto alone = [&ready]() -> Result<std::optional<mpi::Session>> {
    if (!ready.ok()) return ready;
    return std::optional<mpi::Session>();
  };
  if (config.alone) return alone();
  const std::optional<Launcher> launcher = launcher_of_this_process();
  if (!mpi_has_started()) {
    if (!launcher) return alone();
    if (has_place_of_its_parent()) return place_is_taken();
    if (!launcher->of_mpi) return launcher->started_one() ? alone() : wrong_launcher(*launcher);
  }
  mark_as_rank();
  const mpi::Patience patience = patience_of(config, launcher ? launcher->rank : 0);
  const Result<mpi::Session> session =
      mpi::Session::open({.ranks = given.value_or(MPI_COMM_WORLD), .patience = patience});
  if (!session.ok()) return session.status();
  int processes = 1;
  MPI_Comm_size(MPI_COMM_WORLD, &processes);
  if (processes == 1 && launcher && !launcher->started_one()) return wrong_launcher(*launcher);
  if (Status status = introduce(session.value(), ready, patience); !status.ok()) return status;
  return std::optional(session.value());
}

Status refuse_job(const Status& reason, const GivenRanks& given) {
  const Result<std::optional<mpi::Session>> job = join_job(Config(), reason, given);
  return job.ok() ? reason : job.status();
}

}  // namespace kolo::core
