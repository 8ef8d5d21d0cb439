#pragma once

/// A GPU that is as late as a test wants it to be.

#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>

#include <future>
#include <memory>

#include "framework/support.h"

namespace kolo::testing {

/// Holds what follows in the current stream until it is opened, or gone. Until then nothing may
/// happen for the first time that makes CUDA wait for the GPU: load a kernel, allocate memory.
class Gate {
 public:
  Gate() {
    auto opened = std::make_unique<std::shared_future<void>>(open_.get_future());
    const auto pass = [](void* data) {
      const std::unique_ptr<std::shared_future<void>> gate(
          static_cast<std::shared_future<void>*>(data));
      gate->wait();  // also over when the promise is gone
    };
    const c10::cuda::CUDAGuard guard(device());
    C10_CUDA_CHECK(cudaLaunchHostFunc(c10::cuda::getCurrentCUDAStream(), pass, opened.get()));
    (void)opened.release();
  }

  void open() { open_.set_value(); }

 private:
  std::promise<void> open_;
};

}  // namespace kolo::testing
