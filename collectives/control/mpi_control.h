#pragma once

/// A control plane over MPI: any number of hosts.

#include <list>
#include <memory>
#include <optional>

#include "control/control_plane.h"
#include "mpi/session.h"

namespace kolo::core {

class MpiControlPlane final : public ControlPlane {
 public:
  /// Collective over all ranks, each of which waits for the others.
  static Result<std::unique_ptr<MpiControlPlane>> create(const mpi::Session& session);

  /// Gives messages that are still under way a moment to leave, then drops them.
  ~MpiControlPlane() override;

  const Topology& topology() const override { return topology_; }
  /// Fails on more than 2 GiB, and when MPI does.
  Status send(int destination, std::span<const std::byte> bytes) override;
  Result<std::optional<Envelope>> receive() override;
  bool sending() const override { return !outgoing_.empty(); }
  bool rings() const override { return false; }

 private:
  struct Outgoing {
    int destination = 0;
    std::vector<std::byte> bytes;
    mpi::Requests request{1};
  };
  struct Incoming {
    Envelope envelope;
    mpi::Requests request{1};
  };

  MpiControlPlane(mpi::Comm comm, const Topology& topology);
  /// Forgets what has left, oldest first.
  Status retire_outgoing();
  /// Begins to receive the next message, if there is one.
  Status match_incoming();

  mpi::Comm comm_;
  Topology topology_;
  std::list<Outgoing> outgoing_;
  /// One at a time, so that a short message cannot overtake a long one.
  std::unique_ptr<Incoming> incoming_;
};

}  // namespace kolo::core
