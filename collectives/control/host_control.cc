#include "control/host_control.h"

#include <algorithm>
#include <utility>

namespace kolo::core {

HostControlPlane::HostControlPlane(std::unique_ptr<ControlPlane> near,
                                   std::unique_ptr<ControlPlane> far, std::vector<int> host_ranks)
    : near_(std::move(near)),
      far_(std::move(far)),
      host_ranks_(std::move(host_ranks)),
      alone_(std::ssize(host_ranks_) == near_->topology().size) {}

Status HostControlPlane::send(int destination, std::span<const std::byte> bytes) {
  const bool is_near = std::ranges::find(host_ranks_, destination) != host_ranks_.end();
  return (is_near ? near_ : far_)->send(destination, bytes);
}

Result<std::optional<Envelope>> HostControlPlane::receive() {
  Result<std::optional<Envelope>> envelope = near_->receive();
  if (alone_ || !envelope.ok() || envelope.value()) return envelope;
  return far_->receive();
}

}  // namespace kolo::core
