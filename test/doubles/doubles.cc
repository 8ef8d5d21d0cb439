#include "doubles/doubles.h"

#include "doubles/clique.h"
#include "doubles/communicator.h"
#include "doubles/control.h"
#include "doubles/memory.h"
#include "doubles/streams.h"

namespace kolo::doubles {
namespace {

/// Threads must end before the program does.
struct AtExit {
  ~AtExit() { reset(); }
} at_exit;

}  // namespace

void reset(const Settings& settings) {
  abort_all_cliques();
  end_communicators();
  reset_streams();
  reset_communicators();
  reset_cliques();
  reset_memory();
  reset_control(settings);
}

Live live() {
  const LiveCommunicators of_nccl = live_communicators();
  return {.streams = live_streams(),
          .events = live_events(),
          .allocations = live_allocations(),
          .communicators = of_nccl.communicators,
          .registrations = of_nccl.registrations,
          .reduction_operators = of_nccl.reduction_operators};
}

}  // namespace kolo::doubles
