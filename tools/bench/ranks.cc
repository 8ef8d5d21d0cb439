#include "bench/ranks.h"

#include <stdexcept>
#include <utility>

namespace kolo::bench {

Ranks Ranks::of_job() {
  Ranks ranks;
  if (!core::mpi::is_active()) return ranks;
  int level = MPI_THREAD_SINGLE;
  require_mpi(MPI_Query_thread(&level), "MPI_Query_thread");
  if (level != MPI_THREAD_MULTIPLE) {
    throw std::runtime_error(
        "kolo-bench talks over MPI beside Kolo's own thread, but this MPI does not provide "
        "MPI_THREAD_MULTIPLE: use an MPI that was built with thread support");
  }
  core::Result<core::mpi::Comm> comm = core::mpi::Comm::duplicate(MPI_COMM_WORLD);
  if (!comm.ok()) throw std::runtime_error(comm.status().message());
  ranks.comm_ = std::move(comm).value();
  return ranks;
}

Ranks Ranks::split(bool side) const {
  Ranks part;
  if (alone()) return part;
  core::Result<core::mpi::Comm> comm = core::mpi::Comm::split(comm_.get(), side ? 1 : 0);
  if (!comm.ok()) throw std::runtime_error(comm.status().message());
  part.comm_ = std::move(comm).value();
  return part;
}

void Ranks::barrier() const {
  if (!alone()) require_mpi(MPI_Barrier(comm()), "MPI_Barrier");
}

double Ranks::max(double value) const {
  if (alone()) return value;
  double most = value;
  require_mpi(MPI_Allreduce(&value, &most, 1, MPI_DOUBLE, MPI_MAX, comm()), "MPI_Allreduce");
  return most;
}

double Ranks::mean(double value) const {
  if (alone()) return value;
  double sum = value;
  require_mpi(MPI_Allreduce(&value, &sum, 1, MPI_DOUBLE, MPI_SUM, comm()), "MPI_Allreduce");
  return sum / size();
}

std::vector<float> Ranks::gather(std::span<const float> values) const {
  if (alone()) return {values.begin(), values.end()};
  std::vector<float> all(values.size() * static_cast<std::size_t>(size()));
  const int count = static_cast<int>(values.size());
  require_mpi(MPI_Allgather(values.data(), count, MPI_FLOAT, all.data(), count, MPI_FLOAT, comm()),
              "MPI_Allgather");
  return all;
}

void require_mpi(int code, const char* what) {
  const core::Status status = core::mpi::check(code, what);
  if (!status.ok()) throw std::runtime_error(status.message());
}

}  // namespace kolo::bench
