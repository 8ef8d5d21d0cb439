#pragma once

/// What NCCL's handle of a communicator points to: one rank of a clique. It stays until reset(), so
/// that a late use of the handle is seen.

#include <nccl.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "doubles/clique.h"
#include "doubles/control.h"
#include "doubles/memory.h"
#include "doubles/worker.h"

namespace kolo::doubles {

struct PremultipliedSum {
  ncclDataType_t dtype;
  Reduction reduction;
};

}  // namespace kolo::doubles

struct ncclComm {
  ncclComm(kolo::doubles::Clique& its_clique, int its_rank, int its_ranks, int its_device,
           bool blocks, kolo::doubles::Delays delays)
      : clique(its_clique),
        rank(its_rank),
        ranks(its_ranks),
        device(its_device),
        is_blocking(blocks),
        launcher(delays) {}

  kolo::doubles::Clique& clique;
  const int rank;
  const int ranks;
  const int device;
  const bool is_blocking;

  std::atomic<bool> destroyed = false;
  /// Something was called that is not complete.
  std::atomic<bool> is_in_progress = false;
  /// Operations that streams have not done.
  std::atomic<int> outstanding = 0;
  std::atomic<bool> is_aborted = false;
  bool is_finalized = false;

  /// Its error, success, or in progress.
  ncclResult_t state();

  // How many there were.
  std::int64_t operations = 0;
  std::int64_t collectives = 0;
  std::vector<std::int64_t> sends = std::vector<std::int64_t>(static_cast<std::size_t>(ranks));
  std::vector<std::int64_t> receives = std::vector<std::int64_t>(static_cast<std::size_t>(ranks));

  std::vector<std::optional<kolo::doubles::PremultipliedSum>> reductions;
  std::vector<std::unique_ptr<kolo::doubles::Allocation*>> registrations;

  /// A thread is inside a call with it.
  std::atomic<bool> is_in_use = false;
  /// Not atomic, so that ThreadSanitizer tells of threads that use it without an order.
  std::int64_t uses = 0;

  /// What is in progress is done here.
  kolo::doubles::Worker launcher;
};

namespace kolo::doubles {

/// While a thread is inside a call with a communicator: two at a time are a misuse.
class UseOfCommunicator {
 public:
  UseOfCommunicator(ncclComm_t communicator, std::string_view function);
  ~UseOfCommunicator();
  UseOfCommunicator(const UseOfCommunicator&) = delete;
  UseOfCommunicator& operator=(const UseOfCommunicator&) = delete;

  /// Success, unless it is no communicator.
  ncclResult_t is_alive() const;
  /// Success, unless its last call is not complete, or it has an error.
  ncclResult_t is_settled() const;
  /// The same, unless it is finalized.
  ncclResult_t is_ready() const;

 private:
  ncclComm_t communicator_;
  std::string_view function_;
};

ncclComm_t create_communicator(Clique& clique, int rank, int ranks, bool is_blocking);

/// Remembers why for ncclGetLastError.
ncclResult_t refuse(ncclResult_t error, std::string why);

/// The error that a test has asked for, or success.
ncclResult_t entered_nccl(Function function);

/// Does `work` in the launcher. What is then returned: in progress, or how it ended if calls block.
template <typename Work>
void begin(ncclComm_t communicator, Work work) {
  communicator->is_in_progress.store(true, std::memory_order_relaxed);
  communicator->launcher.push([communicator, work = std::move(work)]() mutable {
    work();
    communicator->is_in_progress.store(false, std::memory_order_release);
  });
}
ncclResult_t state_or_end(ncclComm_t communicator);

/// Whether calls are being collected in the calling thread; what is begun then is waited for by the
/// group.
bool is_in_group();
void add_to_group(ncclComm_t communicator);

struct LiveCommunicators {
  int communicators = 0;
  int registrations = 0;
  int reduction_operators = 0;
};
LiveCommunicators live_communicators();
/// How many were finalized since the last reset.
void count_finalized();
int finalized_communicators();
/// Ends their launchers. All cliques are aborted.
void end_communicators();
/// After all streams have ended.
void reset_communicators();

}  // namespace kolo::doubles
