#include "tensor_memory.h"

#include <torch/torch.h>

#include <exception>
#include <utility>

#include "base/forked.h"
#include "device.h"

namespace kolo::detail {
namespace {

/// Holds a GPU's memory, and lets go of it when the GPU has come to where it was dropped.
class Dropped {
 public:
  Dropped(const std::shared_ptr<core::Context>& context, torch::Device device,
          std::shared_ptr<void> memory)
      : context_(context), made_in_(current_stream(device)), memory_(std::move(memory)) {}

  ~Dropped() {
    if (core::is_forked_child()) {
      // CUDA does not work there; and the memory is the parent's.
      [[maybe_unused]] auto* const left = new std::shared_ptr<void>(std::move(memory_));
      return;
    }
    try {
      core::RetiredMemory::Events last_uses = {record_event(made_in_)};
      const c10::Stream dropped_in = current_stream(made_in_.device());
      if (dropped_in != made_in_) last_uses.push_back(record_event(dropped_in));
      if (const auto context = context_.lock()) {
        context->retire(std::move(memory_), std::move(last_uses));
      } else {
        for (const auto& use : last_uses) (void)use->synchronize();
      }
    } catch (const std::exception&) {
      // CUDA has failed, or ends with the process: it does nothing any more.
    }
  }
  Dropped(const Dropped&) = delete;
  Dropped& operator=(const Dropped&) = delete;

  void* address() const { return memory_.get(); }

 private:
  const std::weak_ptr<core::Context> context_;
  const c10::Stream made_in_;
  std::shared_ptr<void> memory_;
};

}  // namespace

core::Result<std::shared_ptr<void>> allocate(const std::shared_ptr<core::Context>& context,
                                             torch::Device device, std::size_t bytes) {
  core::Result<std::shared_ptr<std::byte>> memory = context->allocate(to_core(device), bytes);
  if (!memory.ok()) return memory.status();
  return droppable(context, device, std::move(memory).value());
}

std::shared_ptr<void> droppable(const std::shared_ptr<core::Context>& context, torch::Device device,
                                std::shared_ptr<void> memory) {
  if (!device.is_cuda()) return memory;
  auto dropped = std::make_shared<Dropped>(context, device, std::move(memory));
  void* const address = dropped->address();
  return {std::move(dropped), address};
}

torch::Tensor tensor_in(const std::shared_ptr<void>& memory, std::int64_t bytes_before,
                        torch::IntArrayRef sizes, const torch::TensorOptions& options,
                        const std::optional<torch::IntArrayRef>& strides) {
  auto maker = at::for_blob(static_cast<std::byte*>(memory.get()) + bytes_before, sizes);
  if (strides) maker.strides(*strides);
  return maker.deleter([memory](void*) {})
      .options(options.requires_grad(false))
      .target_device(options.device())
      .make_tensor()
      .set_requires_grad(options.requires_grad());
}

}  // namespace kolo::detail
