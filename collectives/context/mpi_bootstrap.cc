#include "context/mpi_bootstrap.h"

#include <numeric>
#include <utility>

namespace kolo::core {

Result<MpiBootstrap> MpiBootstrap::create(const mpi::Session& session) {
  Result<mpi::Comm> comm = mpi::Comm::split_by_host(session.ranks());
  if (!comm.ok()) return comm.status();
  return MpiBootstrap(std::move(comm).value());
}

Result<std::vector<std::vector<std::byte>>> MpiBootstrap::all_gather(
    std::span<const std::byte> own) {
  constexpr std::string_view kWhat = "gathering what the ranks of this host need to share memory";
  const auto ranks = static_cast<std::size_t>(size());
  const int bytes = static_cast<int>(own.size());
  std::vector<int> counts(ranks);
  Status counted =
      mpi::check(MPI_Allgather(&bytes, 1, MPI_INT, counts.data(), 1, MPI_INT, comm_.get()), kWhat);
  if (!counted.ok()) return counted;
  std::vector<int> places(ranks, 0);
  std::exclusive_scan(counts.begin(), counts.end(), places.begin(), 0);
  std::vector<std::byte> all(static_cast<std::size_t>(places.back() + counts.back()));
  Status gathered = mpi::check(MPI_Allgatherv(own.data(), bytes, MPI_BYTE, all.data(),
                                              counts.data(), places.data(), MPI_BYTE, comm_.get()),
                               kWhat);
  if (!gathered.ok()) return gathered;
  std::vector<std::vector<std::byte>> parts;
  for (std::size_t rank = 0; rank < ranks; ++rank) {
    const auto begin = all.begin() + places[rank];
    parts.emplace_back(begin, begin + counts[rank]);
  }
  return parts;
}

}  // namespace kolo::core
