#pragma once

/// Hosts whose ranks are threads, each with a GPU: NCCL within a host, the in-process plane between
/// hosts.

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "base/doorbell.h"
#include "data/hierarchical_data.h"
#include "data/inproc_data.h"
#include "data/selector.h"
#include "data/staged_data.h"

namespace kolo::core::gpus {

class GpuHosts {
 public:
  /// `layout`: of each rank, the lowest on its host.
  GpuHosts(std::vector<int> layout, const HierarchicalOptions& options)
      : layout_(std::move(layout)), options_(options), doorbells_(layout_.size()) {}

  int size() const { return static_cast<int>(layout_.size()); }

  /// On the rank's thread. As the context connects them. The rank's GPU has the rank's number.
  std::shared_ptr<DataPlane> connect(int rank, const std::shared_ptr<DataPlane>& nccl) {
    const std::shared_ptr<DataPlane> far =
        far_->connect(rank, doorbells_[static_cast<std::size_t>(rank)]);
    const auto across = std::make_shared<HierarchicalDataPlane>(
        nccl, std::make_shared<StagedDataPlane>(far, rank), layout_, options_);
    std::vector<Route> routes;
    using enum CollectiveKind;
    for (const CollectiveKind kind :
         {Allreduce, Broadcast, Allgather, Reducescatter, Alltoall}) {
      const std::size_t plane = kind == Allreduce || kind == Broadcast ? 1 : 0;
      routes.push_back({.kind = kind, .device = DeviceType::Cuda, .reach = Reach::Host});
      routes.push_back(
          {.kind = kind, .device = DeviceType::Cuda, .reach = Reach::Cluster, .plane = plane});
    }
    return std::make_shared<SelectingDataPlane>(
        std::vector<SelectingDataPlane::Choice>{{"NCCL", nccl}, {"between hosts", across}},
        std::move(routes), ranks_beside(rank), /*rings=*/true);
  }

 private:
  std::vector<int> ranks_beside(int rank) const {
    std::vector<int> ranks;
    for (int other = 0; other < size(); ++other) {
      if (layout_[static_cast<std::size_t>(other)] == layout_[static_cast<std::size_t>(rank)]) {
        ranks.push_back(other);
      }
    }
    return ranks;
  }

  const std::vector<int> layout_;
  const HierarchicalOptions options_;
  std::vector<Doorbell> doorbells_;
  std::shared_ptr<InprocDataHub> far_ = InprocDataHub::create(size());
};

}  // namespace kolo::core::gpus
