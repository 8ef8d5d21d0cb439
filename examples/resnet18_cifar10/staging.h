#pragma once

/// Batches on their way to the device.

#include <c10/core/Event.h>
#include <torch/types.h>

#include <cstdint>
#include <vector>

#include "loader.h"

namespace resnet_example {

struct StagingSize {
  std::size_t slots;
  std::int64_t batch_size;
  int channels;
};

/// Owns the slots that loaders fill: with a GPU, pinned memory that it reads by itself while the
/// host goes on; without, the tensors that the network is given.
class Staging {
 public:
  Staging(const StagingSize& size, torch::Device device);
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;

  /// For one loader at a time.
  const std::vector<BatchSlot>& slots() const { return lent_; }

  struct OnDevice {
    torch::Tensor images, labels;
  };

  /// On a GPU these are ready for its current stream, and outlive the slot's next batch; on the CPU
  /// they are the slot.
  OnDevice send(const Batch& batch);

 private:
  struct Slot {
    torch::Tensor images, labels;
    c10::Event read;  // by the GPU; without one, never recorded, which counts as reached
  };

  bool was_read(const Slot& slot) const;

  const torch::Device device_;
  std::vector<Slot> slots_;
  std::vector<BatchSlot> lent_;
};

}  // namespace resnet_example
