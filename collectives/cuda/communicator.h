#pragma once

/// NCCL's communicators, which never block the host.

#include <cuda_runtime_api.h>
#include <nccl.h>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <string>
#include <thread>

#include "base/status.h"

namespace kolo::core::cuda {

/// Owns a communicator. NCCL does in threads of its own what takes time: a call is complete when
/// settled() says so, and only then may the next one be made. Used by one thread at a time, with
/// its GPU current.
class Communicator {
 public:
  /// Begins to connect with the other members. `end_within`: see the destructor.
  static Result<Communicator> connect(const ncclUniqueId& id, int members, int member,
                                      std::chrono::duration<double> end_within);

  Communicator(Communicator&& other) noexcept;
  Communicator& operator=(Communicator&&) = delete;
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;
  /// Ends in peace, when all that was begun is over; what is not within `end_within` is aborted.
  /// Returns when NCCL has let go of everything, which takes it a fraction of a second.
  ~Communicator();

  /// Ends what is under way, on the GPU as well, and with it this object's use.
  void abort();

  ncclComm_t get() const { return comm_; }

  /// Whether the last call is complete; the error if that, or anything under way, has failed.
  Result<bool> settled() const;

  /// NCCL need not copy to or from memory that it knows. Returns a handle for forget().
  Result<void*> know(void* memory, std::size_t bytes) const;
  Status forget(void* handle) const;

 private:
  Communicator(ncclComm_t comm, std::chrono::duration<double> end_within)
      : comm_(comm), end_within_(end_within) {}

  ncclComm_t comm_ = nullptr;
  std::chrono::duration<double> end_within_;
};

/// A communicator that comes to its end, in a thread of its own: the thread that works with others
/// does not wait for it, and any number of them end at the same time.
class EndingCommunicator {
 public:
  /// Nobody else uses it any more, and the GPU has run all of its operations.
  EndingCommunicator(Communicator communicator, int device);
  /// Returns when it has ended.
  ~EndingCommunicator();
  EndingCommunicator(const EndingCommunicator&) = delete;
  EndingCommunicator& operator=(const EndingCommunicator&) = delete;

  bool over() const { return over_.load(std::memory_order_acquire); }

 private:
  std::atomic<bool> over_ = false;  // released by the thread when NCCL has forgotten everything
  std::thread thread_;
};

/// The id that the members of a new communicator have to know.
Result<ncclUniqueId> new_communicator_id();

/// From now on NCCL takes this process for the only one on a host of this number. Before any other
/// call.
void pretend_to_be_host(int number);

/// The library's version, as NCCL numbers them: an error if it is older than what Kolo was compiled
/// with.
Result<int> nccl_version();

}  // namespace kolo::core::cuda
