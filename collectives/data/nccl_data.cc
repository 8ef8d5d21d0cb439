#include "data/nccl_data.h"

#include <algorithm>
#include <utility>

#include "cuda/stream.h"
#include "data/nccl_operation.h"

namespace kolo::core {

NcclDataPlane::NcclDataPlane(std::shared_ptr<DataPlane> host, const Settings& settings)
    : host_(std::move(host)),
      settings_(settings),
      memory_(cuda::Memory::of_device(settings.device)) {
  if (settings.gpus_are_shared) cuda::pretend_to_be_host(settings.rank);
}

NcclDataPlane::~NcclDataPlane() {
  const cuda::DeviceGuard guard(settings_.device);
  channels_.clear();
}

StartedOperation NcclDataPlane::start(const Collective& collective) {
  const cuda::DeviceGuard guard(settings_.device);
  if (!guard.status().ok()) return guard.status();
  if (Status status = free_released(); !status.ok()) return status;
  std::shared_ptr<NcclChannel>& channel = channels_[collective.channel];
  if (channel == nullptr) {
    channel = std::make_shared<NcclChannel>(
        NcclChannel::Setup{.host = *host_,
                           .device = settings_.device,
                           .gpus_are_shared = settings_.gpus_are_shared,
                           .connect_within = settings_.connect_within,
                           .memory = memory_},
        collective);
  }
  auto operation = std::make_unique<NcclOperation>(channel, collective, settings_.device,
                                                   settings_.done_within);
  // An operation whose turn it is goes into the GPU's queue at once.
  if (const auto progress = operation->progress(); !progress.ok()) return progress.status();
  return std::unique_ptr<Operation>(std::move(operation));
}

std::shared_ptr<std::byte> NcclDataPlane::allocate(DeviceType device, std::size_t bytes) {
  return device == DeviceType::Cuda ? memory_->allocate(bytes) : nullptr;
}

bool NcclDataPlane::rings() const {
  return std::ranges::all_of(channels_, [](const auto& entry) { return entry.second->idle(); });
}

Status NcclDataPlane::free_released() {
  for (const cuda::Memory::Block& block : memory_->take_released()) {
    for (const auto& [id, channel] : channels_) {
      if (Status status = channel->forget(block); !status.ok()) return status;
    }
    memory_->free(block);
  }
  return {};
}

}  // namespace kolo::core
