#pragma once

/// One collective of GPUs on its way.

#include <array>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "cuda/event.h"
#include "data/data_plane.h"
#include "data/nccl_arithmetic.h"
#include "data/nccl_channel.h"

namespace kolo::core {

/// States, in this order:
///
///   Queued   the channel is not Open, or earlier operations are still to be issued
///   Issuing  the stream waits for the memory to be ready, and packs; NCCL has the operation, and
///            puts it into the stream in its own time
///   Issued   the rest is in the stream, too: what uses the result can be made to wait for it
///   Done     the GPU has run it all
class NcclOperation final : public Operation {
 public:
  NcclOperation(std::shared_ptr<NcclChannel> channel, const Collective& collective, int device,
                std::chrono::duration<double> done_within);
  /// Aborts the channel unless it is Done.
  ~NcclOperation() override;
  NcclOperation(const NcclOperation&) = delete;
  NcclOperation& operator=(const NcclOperation&) = delete;

  Result<Progress> progress() override;
  /// Of an operation that is in the queue nothing is known of the others.
  std::vector<int> missing() const override;
  std::shared_ptr<DeviceEvent> issued() const override { return finished_; }
  std::optional<DeviceTimes> device_times() const override { return times_; }

 private:
  enum class State { Queued, Issuing, Issued, Done };

  Result<Progress> advance();
  Status begin();
  Status pack();
  Status unpack();
  Status copy(std::span<const DeviceCopy> copies, double scale = 1.0) const;
  Status copy_alone();
  Status call_nccl();
  Status all_reduce(ncclComm_t comm);
  Status broadcast(ncclComm_t comm) const;
  Status all_gather(ncclComm_t comm) const;
  Status reduce_scatter(ncclComm_t comm);
  Status all_to_all(ncclComm_t comm) const;
  Status group(ncclComm_t comm, const std::function<Status(int member)>& call) const;
  Status make_reduction(ncclComm_t comm);
  bool all_counts_equal() const;
  Status end();
  Result<bool> is_over();
  Status check_time() const;
  Status mark(std::shared_ptr<cuda::Event>& event) const;
  Status read_times();

  const std::shared_ptr<NcclChannel> channel_;
  const Collective collective_;
  const int device_;
  const std::chrono::duration<double> done_within_;
  const std::uint64_t number_;
  /// Of what uses its result.
  const std::shared_ptr<cuda::Fate> fate_ = std::make_shared<cuda::Fate>();
  NcclReduction reduction_;
  /// What NCCL reads.
  const void* input_ = nullptr;
  State state_ = State::Queued;
  std::chrono::steady_clock::time_point begun_at_;
  /// Only where times are asked for.
  std::shared_ptr<cuda::Event> started_, packed_, reduced_;
  std::shared_ptr<cuda::Event> finished_;
  std::optional<DeviceTimes> times_;
};

}  // namespace kolo::core
