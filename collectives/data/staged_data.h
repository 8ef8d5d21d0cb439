#pragma once

/// A data plane for a GPU's memory, made of one for the host's.

#include <memory>
#include <optional>

#include "cuda/pinned_memory.h"
#include "cuda/stream.h"
#include "data/data_plane.h"

namespace kolo::core {

/// All-reduces and broadcasts, each a state machine that the host drives, which waits for nothing:
///
///   state       meaning                                             leaves it
///   ----------  --------------------------------------------------  ----------------------------
///   Waiting     the memory is not ready                             it is -> Taking
///   Taking      the GPU copies its memory to the host's, unless     it has -> Exchanging
///               this member takes no part in the input
///   Exchanging  the host's plane does the operation there           it is Done -> Giving
///   Giving      the GPU copies the result back, unless it has it    it has -> Done
///
/// A GPU copies both ways at the same time: there is a stream for each. Whoever's memory was ready
/// first is copied first.
class StagedDataPlane final : public DataPlane {
 public:
  /// `host` is used by nobody else, or with other numbers. `device`: the GPU, by its number in this
  /// process.
  StagedDataPlane(std::shared_ptr<DataPlane> host, int device);
  ~StagedDataPlane() override;

  /// Its memory is packed, and of the GPU. An operation that is destroyed before it is Done leaves the
  /// host's memory that it had to those who may still write to it.
  StartedOperation start(const Collective& collective) override;
  bool rings() const override { return staging_.in_flight == 0; }
  void drain() override;
  void end_channel(ChannelId channel) override { host_->end_channel(channel); }

  /// What operations share. The plane outlives them.
  struct Staging {
    int device = 0;
    cuda::PinnedMemory memory;
    /// From the GPU, and to it; made when they are needed.
    std::optional<cuda::Stream> out, in;
    int in_flight = 0;
  };

 private:
  const std::shared_ptr<DataPlane> host_;
  Staging staging_;
};

}  // namespace kolo::core
