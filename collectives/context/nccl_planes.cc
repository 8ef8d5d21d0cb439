#include <fmt/format.h>

#include <string>
#include <utility>

#include "context/gpu_planes.h"
#include "cuda/check.h"
#include "cuda/communicator.h"
#include "data/hierarchical_data.h"
#include "data/nccl_data.h"
#include "data/staged_data.h"

namespace kolo::core {
namespace {

/// CUDA numbers 13.0 as 13000.
std::string render_version(int version) {
  return fmt::format("{}.{}", version / 1000, version % 1000 / 10);
}

/// A machine without a GPU, or without a driver for it, is one for CPU tensors. One whose driver is
/// too old has a mistake in it.
Result<int> count_gpus() {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error == cudaSuccess) return count;
  int driver = 0;
  int runtime = 0;
  if (error != cudaErrorInsufficientDriver || cudaDriverGetVersion(&driver) != cudaSuccess ||
      cudaRuntimeGetVersion(&runtime) != cudaSuccess || driver == 0) {
    return 0;
  }
  return Status::error(fmt::format(
      "the driver of this host's GPUs is one for CUDA {}, but the program has CUDA {}: install a "
      "driver that is not older, or use a LibTorch and a Kolo for CUDA {}",
      render_version(driver), render_version(runtime), render_version(driver)));
}

Result<std::optional<int>> choose_gpu(const Config& config, const Topology& topology) {
  const Result<int> counted = count_gpus();
  if (!counted.ok()) return counted.status();
  const int gpus = counted.value();
  if (gpus == 0) return std::optional<int>();
  if (const Result<int> version = cuda::nccl_version(); !version.ok()) return version.status();
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

GpuPlane connect_gpu(const Config& config, const Topology& topology, const HostPlanes& host) {
  Result<std::optional<int>> gpu = choose_gpu(config, topology);
  if (!gpu.ok() || !gpu.value()) return {.gpu = std::move(gpu)};
  const int device = *gpu.value();
  GpuPlane planes{.gpu = std::move(gpu),
                  .plane = std::make_shared<NcclDataPlane>(
                      host.any, NcclDataPlane::Settings{.device = device,
                                                        .gpus_are_shared = config.shared_gpu,
                                                        .rank = topology.rank,
                                                        .done_within = config.stall_abort})};
  if (config.gpu_over_mpi && host.far != nullptr) {
    planes.between_hosts = std::make_shared<HierarchicalDataPlane>(
        planes.plane, std::make_shared<StagedDataPlane>(host.far, device), host.hosts);
  }
  return planes;
}

}  // namespace kolo::core
