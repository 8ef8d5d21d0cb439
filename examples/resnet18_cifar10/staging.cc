#include "staging.h"

#include <c10/core/DeviceGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <torch/torch.h>

namespace resnet_example {

Staging::Staging(const StagingSize& size, torch::Device device) : device_(device) {
  const auto memory = torch::TensorOptions().pinned_memory(device.is_cuda());
  slots_.reserve(size.slots);  // was_read() is lent with the slot's address
  for (std::size_t i = 0; i < size.slots; ++i) {
    const Slot& slot = slots_.emplace_back(Slot{
        torch::empty({size.batch_size, size.channels, kImageSide, kImageSide}, memory),
        torch::empty({size.batch_size}, memory.dtype(torch::kInt64)), c10::Event(device.type())});
    lent_.push_back({.images = slot.images.data_ptr<float>(),
                     .labels = slot.labels.data_ptr<std::int64_t>(),
                     .was_read = [this, &slot] { return was_read(slot); }});
  }
}

Staging::OnDevice Staging::send(const Batch& batch) {
  Slot& slot = slots_[batch.slot];
  const auto size = static_cast<std::int64_t>(batch.size);
  OnDevice sent{slot.images.narrow(0, 0, size), slot.labels.narrow(0, 0, size)};
  if (device_.is_cpu()) return sent;
  sent.images = sent.images.to(device_, /*non_blocking=*/true);
  sent.labels = sent.labels.to(device_, /*non_blocking=*/true);
  slot.read.record(c10::impl::VirtualGuardImpl(device_.type()).getStream(device_));
  return sent;
}

/// A worker's view of send()'s event: next() has left the slot to it since.
bool Staging::was_read(const Slot& slot) const {
  const c10::DeviceGuard guard(device_);  // or CUDA would set up the first GPU for this thread
  return slot.read.query();
}

}  // namespace resnet_example
