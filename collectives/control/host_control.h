#pragma once

/// A control plane made of two: one for the ranks of this host, one for those elsewhere.

#include <memory>
#include <vector>

#include "control/control_plane.h"

namespace kolo::core {

class HostControlPlane final : public ControlPlane {
 public:
  /// `near` reaches the ranks in `host_ranks`, `far` all others. Two ranks always talk over the
  /// same one, so their messages stay in order.
  HostControlPlane(std::unique_ptr<ControlPlane> near, std::unique_ptr<ControlPlane> far,
                   std::vector<int> host_ranks);

  const Topology& topology() const override { return near_->topology(); }
  Status send(int destination, std::span<const std::byte> bytes) override;
  Result<std::optional<Envelope>> receive() override;
  bool sending() const override { return near_->sending() || far_->sending(); }
  bool rings() const override { return near_->rings() && (alone_ || far_->rings()); }

 private:
  const std::unique_ptr<ControlPlane> near_;
  const std::unique_ptr<ControlPlane> far_;
  const std::vector<int> host_ranks_;
  /// All ranks are on this host.
  const bool alone_;
};

}  // namespace kolo::core
