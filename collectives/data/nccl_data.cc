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
  // All at the same time.
  for (const auto& [key, channel] : channels_) channel->end();
  channels_.clear();
  ending_.clear();
  free_released();
}

StartedOperation NcclDataPlane::start(const Collective& collective) {
  const cuda::DeviceGuard guard(settings_.device);
  if (!guard.status().ok()) return guard.status();
  std::erase_if(ending_, [](const auto& channel) { return channel->ended(); });
  free_released();
  auto operation = std::make_unique<NcclOperation>(channel_of(collective), collective,
                                                   settings_.device, settings_.done_within);
  // An operation whose turn it is goes into the GPU's queue at once.
  if (const auto progress = operation->progress(); !progress.ok()) return progress.status();
  return std::unique_ptr<Operation>(std::move(operation));
}

const std::shared_ptr<NcclChannel>& NcclDataPlane::channel_of(const Collective& collective) {
  const std::pair key(collective.channel, collective.lane);
  const auto known = channels_.find(key);
  if (known != channels_.end()) return known->second;
  const NcclChannel::Setup setup{.host = *host_,
                                 .device = settings_.device,
                                 .gpus_are_shared = settings_.gpus_are_shared,
                                 .connect_within = settings_.connect_within,
                                 .end_within = settings_.end_within,
                                 .memory = memory_};
  auto channel = std::make_shared<NcclChannel>(setup, collective);
  return channels_.emplace(key, std::move(channel)).first->second;
}

Result<std::shared_ptr<std::byte>> NcclDataPlane::allocate(DeviceType device, std::size_t bytes) {
  return device == DeviceType::Cuda ? memory_->allocate(bytes) : DataPlane::allocate(device, bytes);
}

bool NcclDataPlane::rings() const {
  return std::ranges::all_of(channels_, [](const auto& entry) { return entry.second->idle(); });
}

void NcclDataPlane::free_released() {
  memory_->free_released([this](const cuda::Memory::Block& block) {
    bool forgotten = true;
    for (const auto& channel : all_channels()) forgotten = channel->forget(block) && forgotten;
    return forgotten;
  });
}

void NcclDataPlane::drain() {
  const cuda::DeviceGuard guard(settings_.device);
  for (const auto& channel : all_channels()) channel->drain();
}

void NcclDataPlane::end_channel(ChannelId id) {
  const cuda::DeviceGuard guard(settings_.device);
  std::erase_if(channels_, [&](const auto& entry) {
    if (entry.first.first != id) return false;
    entry.second->end();
    ending_.push_back(entry.second);
    return true;
  });
}

std::vector<std::shared_ptr<NcclChannel>> NcclDataPlane::all_channels() const {
  std::vector<std::shared_ptr<NcclChannel>> all = ending_;
  for (const auto& [key, channel] : channels_) all.push_back(channel);
  return all;
}

}  // namespace kolo::core
