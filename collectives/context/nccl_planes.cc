#include <fmt/format.h>

#include <cstdlib>
#include <utility>

#include "context/gpu_planes.h"
#include "cuda/check.h"
#include "data/nccl_data.h"

namespace kolo::core {
namespace {

/// A machine without a GPU, or without a driver for it, is one for CPU tensors.
int count_gpus() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

Result<std::optional<int>> choose_gpu(const Config& config, const Topology& topology) {
  const int gpus = count_gpus();
  if (gpus == 0) return std::optional<int>();
  // Where each rank sees one GPU, NCCL's members find out whether it is another one on each.
  if (gpus == 1) return std::optional<int>(0);
  if (gpus >= topology.local_size) return std::optional<int>(topology.local_rank);
  if (config.shared_gpu) return std::optional<int>(topology.local_rank % gpus);
  return Status::error(
      fmt::format("this host has {} GPUs for {} ranks: start no more ranks on it than that, or set "
                  "KOLO_SHARED_GPU=on to let ranks share them",
                  gpus, topology.local_size));
}

}  // namespace

GpuPlane connect_gpu(const Config& config, const Topology& topology,
                     std::shared_ptr<DataPlane> host) {
  Result<std::optional<int>> gpu = choose_gpu(config, topology);
  if (!gpu.ok() || !gpu.value()) return {.gpu = std::move(gpu)};
  return {.gpu = gpu,
          .plane = std::make_shared<NcclDataPlane>(
              std::move(host), NcclDataPlane::Settings{.device = *gpu.value(),
                                                       .gpus_are_shared = config.shared_gpu,
                                                       .rank = topology.rank,
                                                       .done_within = config.stall_abort})};
}

}  // namespace kolo::core
