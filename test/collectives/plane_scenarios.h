#pragma once

/// What every control plane and every data plane has to get right, as one rank's part in it.

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "control/control_plane.h"
#include "data/data_plane.h"

namespace kolo::core::scenarios {

/// Called when nothing moves.
using Idle = std::function<void()>;

/// Where the tensors lie: anywhere, in memory of the plane, or here and there, by rank and
/// operation.
enum class Memory { Private, Plane, Mixed };

/// Every kind of collective on each number of elements, in several channels, among all ranks and
/// among some. Many are in flight at once; each rank starts the channels interleaved in its own
/// way, and progresses in random order. Results are compared with a serial computation, bit by bit,
/// which sums by host if `hosts` tells each rank's.
void run_collectives(DataPlane& plane, int rank, int size, DataType dtype,
                     const std::vector<std::int64_t>& counts, const Idle& idle,
                     Memory memory = Memory::Private, const std::vector<int>& hosts = {});

/// Every rank sends messages of many sizes to every other; they arrive in order and unchanged.
void run_messages(ControlPlane& plane, const Idle& idle);

/// A rank that gives up its operations after some turns, in which all get to do what they can.
struct GivingUp {
  /// The same for all members, who are all ranks.
  Collective collective;
  /// So many of them are in flight at once.
  int operations = 1;
  Memory memory = Memory::Private;

  int quitter = 0;
  int turns = 0;
  /// Gets no turn before the other has given up, and begins only then unless it is `early`.
  std::optional<int> sleeper;
  bool early = false;
};

/// This thread plays all ranks. All operations come to an end: whichever, but nobody waits on.
void run_giving_up(const std::vector<std::shared_ptr<DataPlane>>& planes, const GivingUp& play);

}  // namespace kolo::core::scenarios
