#include "data/hierarchical_data.h"

#include <fmt/format.h>

#include <numeric>
#include <utility>

#include "data/hierarchical_operations.h"
#include "data/well_formed.h"

namespace kolo::core {
namespace {

bool must_be_divided_once(const Collective& collective) {
  return collective.kind == CollectiveKind::Allreduce && collective.op == ReduceOp::Average &&
         !is_floating(collective.dtype);
}

}  // namespace

HierarchicalDataPlane::HierarchicalDataPlane(std::shared_ptr<DataPlane> near,
                                             std::shared_ptr<DataPlane> far,
                                             std::vector<int> host_of_rank,
                                             const HierarchicalOptions& options)
    : near_(std::move(near)),
      far_(std::move(far)),
      host_of_rank_(std::move(host_of_rank)),
      options_(options) {}

StartedOperation HierarchicalDataPlane::start(const Collective& collective) {
  if (collective.ranks.empty()) return Status::error("an operation without members");
  const Status status =
      well_formed(collective, rank_of(collective), static_cast<int>(host_of_rank_.size()));
  if (!status.ok()) return status;
  if (collective.device == DeviceType::Cuda) return start_on_gpu(collective);
  const HierarchicalSetup setup{*near_, *far_, {collective, host_of_rank_}, options_.chunk_bytes};
  if (setup.layout.one_member_each() || must_be_divided_once(collective)) {
    Collective flat = collective;
    flat.sequence = far_number(collective, 0);
    return far_->start(flat);
  }
  switch (collective.kind) {
    case CollectiveKind::Allreduce:
      return start_hierarchical_allreduce(setup, collective);
    case CollectiveKind::Broadcast:
      return start_hierarchical_broadcast(setup, collective);
    case CollectiveKind::Allgather:
    case CollectiveKind::Reducescatter:
    case CollectiveKind::Alltoall:
    case CollectiveKind::Barrier:
    case CollectiveKind::AddProcessSet:
      break;
  }
  return Status::error(
      fmt::format("no operation for this data plane: {}", to_string(collective.kind)));
}

StartedOperation HierarchicalDataPlane::start_on_gpu(const Collective& collective) {
  if (collective.kind != CollectiveKind::Allreduce &&
      collective.kind != CollectiveKind::Broadcast) {
    return Status::error(
        fmt::format("no operation for this data plane: {}", to_string(collective.kind)));
  }
  std::vector<int> hosts = host_of_rank_;
  if (must_be_divided_once(collective)) std::iota(hosts.begin(), hosts.end(), 0);
  HierarchicalSetup setup{*near_, *far_, {collective, hosts}, options_.chunk_bytes};
  if (setup.layout.hosts.size() == 1) return near_->start(collective);
  std::shared_ptr<NearOrder>& order = orders_[collective.channel];
  if (order == nullptr) order = std::make_shared<NearOrder>();
  setup.order = order;
  setup.number = order->take_number();
  return start_hierarchical_on_gpu(setup, collective);
}

void HierarchicalDataPlane::drain() {
  near_->drain();
  far_->drain();
}

void HierarchicalDataPlane::end_channel(ChannelId channel) {
  near_->end_channel(channel);
  far_->end_channel(channel);
  orders_.erase(channel);
}

}  // namespace kolo::core
