#include "cuda/communicator.h"

#include <fmt/format.h>

#include <chrono>
#include <cstdlib>
#include <thread>
#include <utility>

#include "base/threads.h"
#include "cuda/check.h"
#include "cuda/stream.h"

namespace kolo::core::cuda {
namespace {

/// NCCL numbers 2.28.9 as 22809.
std::string render_version(int version) {
  return fmt::format("{}.{}.{}", version / 10000, version / 100 % 100, version % 100);
}

constexpr auto kLookEvery = std::chrono::milliseconds(1);

bool settles_by(const Communicator& communicator, std::chrono::steady_clock::time_point deadline) {
  Result<bool> settled = communicator.settled();
  while (settled.ok() && !settled.value() && std::chrono::steady_clock::now() < deadline) {
    std::this_thread::sleep_for(kLookEvery);
    settled = communicator.settled();
  }
  return settled.ok() && settled.value();
}

}  // namespace

Result<Communicator> Communicator::connect(const ncclUniqueId& id, int members, int member,
                                           std::chrono::duration<double> end_within) {
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  ncclComm_t comm = nullptr;
  const SignalsBlocked blocked;
  const ncclResult_t result = ncclCommInitRankConfig(&comm, members, id, member, &config);
  if (Status status = check(result, "ncclCommInitRankConfig", comm); !status.ok()) return status;
  return Communicator(comm, end_within);
}

Communicator::Communicator(Communicator&& other) noexcept
    : comm_(std::exchange(other.comm_, nullptr)), end_within_(other.end_within_) {}

Communicator::~Communicator() {
  if (comm_ == nullptr) return;
  const auto deadline = std::chrono::steady_clock::now() +
                        std::chrono::duration_cast<std::chrono::nanoseconds>(end_within_);
  // What a kernel has handed over may still be on its way to a peer.
  if (settles_by(*this, deadline) &&
      check(ncclCommFinalize(comm_), "ncclCommFinalize", comm_).ok() &&
      settles_by(*this, deadline)) {
    (void)ncclCommDestroy(comm_);
  } else {
    abort();
  }
}

void Communicator::abort() {
  // Of what fails here nobody could make better use.
  if (comm_ != nullptr) (void)ncclCommAbort(std::exchange(comm_, nullptr));
}

Result<bool> Communicator::settled() const {
  ncclResult_t state = ncclSuccess;
  const ncclResult_t asked = ncclCommGetAsyncError(comm_, &state);
  if (Status status = check(asked, "ncclCommGetAsyncError", comm_); !status.ok()) return status;
  if (Status status = check(state, "NCCL", comm_); !status.ok()) return status;
  return state == ncclSuccess;
}

Result<void*> Communicator::know(void* memory, std::size_t bytes) const {
  void* handle = nullptr;
  const ncclResult_t result = ncclCommRegister(comm_, memory, bytes, &handle);
  if (Status status = check(result, "ncclCommRegister", comm_); !status.ok()) return status;
  return handle;
}

Status Communicator::forget(void* handle) const {
  return check(ncclCommDeregister(comm_, handle), "ncclCommDeregister", comm_);
}

EndingCommunicator::EndingCommunicator(Communicator communicator, int device) {
  auto end = [this, device, ending = std::move(communicator)]() mutable {
    const DeviceGuard guard(device);
    { const Communicator last = std::move(ending); }
    over_.store(true, std::memory_order_release);
  };
  Result<std::thread> thread = start_thread("kolo-nccl-end", std::move(end));
  if (thread.ok()) {
    thread_ = std::move(thread).value();
  } else {
    // It has ended here.
    over_.store(true, std::memory_order_release);
  }
}

EndingCommunicator::~EndingCommunicator() {
  if (thread_.joinable()) thread_.join();
}

Result<ncclUniqueId> new_communicator_id() {
  ncclUniqueId id;
  const SignalsBlocked blocked;
  const Status status = check(ncclGetUniqueId(&id), "ncclGetUniqueId", nullptr);
  if (!status.ok()) return status;
  return id;
}

void pretend_to_be_host(int number) {
  // NCCL's own setting, which it reads once.
  setenv("NCCL_HOSTID", fmt::format("kolo-rank-{}", number).c_str(), /*overwrite=*/0);
}

Result<int> nccl_version() {
  int version = 0;
  const Status status = check(ncclGetVersion(&version), "ncclGetVersion", nullptr);
  if (!status.ok()) return status;
  if (version / 100 < NCCL_VERSION_CODE / 100) {
    return Status::error(
        fmt::format("NCCL {} was found, but Kolo was compiled with {}: put the folder of a "
                    "libnccl.so.2 that is "
                    "not older first in LD_LIBRARY_PATH",
                    render_version(version), render_version(NCCL_VERSION_CODE)));
  }
  return version;
}

}  // namespace kolo::core::cuda
