#include "context/gpu_planes.h"

namespace kolo::core {

GpuPlane connect_gpu(const Config& /*config*/, const Topology& /*topology*/,
                     const HostPlanes& /*host*/) {
  return {};
}

}  // namespace kolo::core
