#pragma once

/// A data plane for the memory of GPUs, over NCCL.

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "cuda/memory.h"
#include "data/data_plane.h"
#include "data/nccl_channel.h"

namespace kolo::core {

/// Each channel, and each lane of one, has a communicator and a stream of its own, because order is
/// agreed on within these only, and NCCL wants one order in a communicator. They are made when the
/// first operation starts (nccl_channel.h), used in the order in which operations start, and ended, in
/// the background, when the channel is.
///
/// The host never waits for the GPU. The stream waits for what makes an operation's memory ready,
/// and who uses the result waits for issued().
class NcclDataPlane final : public DataPlane {
 public:
  struct Settings {
    /// The GPU, by its number in this process.
    int device = 0;
    /// Several ranks may use one GPU. NCCL is told that each `rank` is on a host of its own, and
    /// goes over sockets: for tests, and where there are not enough GPUs.
    bool gpus_are_shared = false;
    int rank = 0;
    /// How long members may take to connect; and how long an operation may be in the GPU's queue,
    /// 0: for ever. After that all operations fail here.
    std::chrono::duration<double> connect_within = std::chrono::seconds(120);
    std::chrono::duration<double> done_within{0};
    /// How long a communicator may take to end. After that it is aborted.
    std::chrono::duration<double> end_within = std::chrono::seconds(5);
  };

  /// `host` is for the members of a channel to introduce themselves: it is given the number of the
  /// first operation of a channel, and of a lane, here, which no other plane uses for that channel.
  /// The lanes of one begin one after the other.
  NcclDataPlane(std::shared_ptr<DataPlane> host, const Settings& settings);
  ~NcclDataPlane() override;

  /// An operation that is destroyed before it is Done aborts its channel, on all members.
  StartedOperation start(const Collective& collective) override;
  Result<std::shared_ptr<std::byte>> allocate(DeviceType device, std::size_t bytes) override;
  /// Nothing rings: neither NCCL nor the GPU.
  bool rings() const override;
  void drain() override;
  void end_channel(ChannelId channel) override;

 private:
  const std::shared_ptr<NcclChannel>& channel_of(const Collective& collective);
  std::vector<std::shared_ptr<NcclChannel>> all_channels() const;
  void free_released();

  const std::shared_ptr<DataPlane> host_;
  const Settings settings_;
  const std::shared_ptr<cuda::Memory> memory_;
  /// By channel and lane.
  std::map<std::pair<ChannelId, int>, std::shared_ptr<NcclChannel>> channels_;
  /// Of channels that are over.
  std::vector<std::shared_ptr<NcclChannel>> ending_;
};

}  // namespace kolo::core
