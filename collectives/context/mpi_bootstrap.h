#pragma once

#include "mpi/handles.h"
#include "mpi/session.h"
#include "shm/bootstrap.h"

namespace kolo::core {

/// Between the ranks that MPI finds on one host.
class MpiBootstrap final : public shm::Bootstrap {
 public:
  /// Collective over the session's ranks.
  static Result<MpiBootstrap> create(const mpi::Session& session);

  int rank() const override { return comm_.rank(); }
  int size() const override { return comm_.size(); }
  Result<std::vector<std::vector<std::byte>>> all_gather(std::span<const std::byte> own) override;
  bool same_process() const override { return false; }

 private:
  explicit MpiBootstrap(mpi::Comm comm) : comm_(std::move(comm)) {}

  mpi::Comm comm_;
};

}  // namespace kolo::core
