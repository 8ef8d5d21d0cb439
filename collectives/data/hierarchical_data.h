#pragma once

/// A data plane between hosts that have several ranks each: one made of two, of which the near one
/// carries bytes within a host and the far one between hosts, so that a link carries no more than
/// it would with one rank a host.
///
/// An operation is cut into chunks. Each goes through the same steps, every one an operation of the
/// near or the far plane among those members that it concerns; the first one starts when the memory
/// is ready, and the next step when this one is done. Up to kHierarchicalWindow chunks are under way,
/// so that one is within the host while another is between hosts.
///
///   all-reduce                                               next step
///   ----------  -------------------------------------------  ----------------------------------
///   near        reduces the chunk within the host            this host's members are there
///   far         the i-th members of all hosts reduce slice   the same slice of all hosts is there
///               i (each host has one: no more slices)
///   near        gathers the slices, unless this member is    -> done
///               alone on its host
///
///   broadcast                                                next step
///   ----------  -------------------------------------------  ----------------------------------
///   far         from the root to one member of each host     this host's one has the chunk
///               (only these; the others begin with the next)
///   near        from that one to the others of its host, if  -> done
///               there are any
///
/// A sum is thus taken in rank order within each host, and then in the order of the hosts' lowest
/// ranks, whatever the number of bytes: like the flat planes' results, these do not depend on how
/// tensors are fused. Float16 and BFloat16 are rounded twice. A host's part of an average is
/// its sum divided by the members of the largest host, and where a postscale makes a sum smaller,
/// hosts apply it, so that nothing overflows on the way. An average of integers, which has to be
/// divided once, is left to the far plane alone, as are sets with one member a host.
///
/// On the memory of GPUs the near plane is NCCL's, which goes by order, and the far one goes through
/// the host's memory (staged_data.h). There the near steps of a channel begin in one order on all
/// members, for each of the two steps of an all-reduce (NearOrder); the GPU packs before the chunks and
/// unpacks after them. A member without a slice waits for the others' on its GPU. What is left to the
/// far plane alone above is cut into chunks as well, with steps in which each member is alone on its
/// host.

#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "data/data_plane.h"

namespace kolo::core {

class NearOrder;

constexpr std::int64_t kHierarchicalWindow = 4;

struct HierarchicalOptions {
  /// The same on all ranks, or they will not understand each other.
  std::int64_t chunk_bytes = std::int64_t{1} << 20;
};

class HierarchicalDataPlane final : public DataPlane {
 public:
  /// `near` reaches the ranks of this host, `far` all; nobody else may use `far`, but another plane of
  /// this kind, nor `near` for channels that are used here, but for lane 0 of NCCL's, because both are
  /// given numbers of this plane's own.
  /// `host_of_rank`: of each rank, the lowest rank on its host.
  HierarchicalDataPlane(std::shared_ptr<DataPlane> near, std::shared_ptr<DataPlane> far,
                        std::vector<int> host_of_rank, const HierarchicalOptions& options = {});

  /// All-reduce and broadcast. A channel has at most 64 operations in flight.
  ///
  /// One that is destroyed before it is Done fails on the members of its host, unless they are Done
  /// before they hear of it. Those of other hosts hear of it as the far plane's operations do.
  StartedOperation start(const Collective& collective) override;
  Result<std::shared_ptr<std::byte>> allocate(DeviceType device, std::size_t bytes) override {
    return near_->allocate(device, bytes);
  }
  bool rings() const override { return near_->rings() && far_->rings(); }
  void drain() override;
  void end_channel(ChannelId channel) override;

 private:
  StartedOperation start_on_gpu(const Collective& collective);

  const std::shared_ptr<DataPlane> near_;
  const std::shared_ptr<DataPlane> far_;
  const std::vector<int> host_of_rank_;
  const HierarchicalOptions options_;
  /// Of channels with operations on a GPU.
  std::map<ChannelId, std::shared_ptr<NearOrder>> orders_;
};

}  // namespace kolo::core
