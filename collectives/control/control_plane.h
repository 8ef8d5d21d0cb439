#pragma once

/// Short messages between ranks: how they agree. The bulk goes over a DataPlane.

#include <cstddef>
#include <optional>
#include <span>
#include <vector>

#include "base/status.h"
#include "base/topology.h"

namespace kolo::core {

struct Envelope {
  int source = 0;
  std::vector<std::byte> bytes;
};

/// Used by one thread at a time. Nothing blocks. Messages from one rank to another arrive
/// in the order in which they were sent.
class ControlPlane {
 public:
  virtual ~ControlPlane() = default;

  virtual const Topology& topology() const = 0;

  /// Takes a copy of `bytes` for `destination` (a global rank, not this one).
  virtual Status send(int destination, std::span<const std::byte> bytes) = 0;

  /// The next message that has arrived, from any rank; nothing when there is none.
  virtual Result<std::optional<Envelope>> receive() = 0;

  /// Whether a message sent earlier is still under way, so that receive() must be called to move
  /// it.
  virtual bool sending() const = 0;

  /// Whether an arriving message rings the coordinator's doorbell; if not, it must be looked for.
  virtual bool rings() const = 0;
};

}  // namespace kolo::core
