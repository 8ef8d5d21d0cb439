#pragma once

/// Which tensors can take part on a rank, by their device.

#include <c10/core/Device.h>

#include <optional>
#include <string>

#include "base/status.h"

namespace kolo::detail {

/// Why those of this device cannot, where the rank has this GPU (core::Context::gpu()), and what to
/// do about it; empty when they can.
std::string device_refusal(const core::Result<std::optional<int>>& gpu, c10::Device device);

}  // namespace kolo::detail
