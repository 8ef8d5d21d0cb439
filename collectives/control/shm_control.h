#pragma once

/// A control plane between the ranks of one host.

#include <memory>

#include "control/control_plane.h"
#include "shm/messenger.h"

namespace kolo::core {

class ShmControlPlane final : public ControlPlane {
 public:
  /// `topology`: of the whole job; messages go to and come from ranks of `host` only, by their
  /// global numbers.
  ShmControlPlane(std::shared_ptr<const shm::Host> host, const Topology& topology);

  /// Gives messages that wait for room a moment to leave, then drops them.
  ~ShmControlPlane() override;

  const Topology& topology() const override { return topology_; }
  /// Fails when `destination` is not on this host.
  Status send(int destination, std::span<const std::byte> bytes) override;
  Result<std::optional<Envelope>> receive() override;
  bool sending() const override { return messenger_.sending(); }
  bool rings() const override { return true; }

 private:
  const std::shared_ptr<const shm::Host> host_;
  const Topology topology_;
  shm::Messenger messenger_;
};

}  // namespace kolo::core
