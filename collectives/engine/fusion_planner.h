#pragma once

/// Which operations run as one. A pure function of what the ranks have agreed on, so that every rank
/// comes to the same groups without a message.

#include <cstddef>
#include <span>
#include <vector>

#include "wire/messages.h"

namespace kolo::core {

/// An operation of one or more requests. Several form one all-reduce over a fusion buffer.
struct FusionGroup {
  struct Slice {
    /// Index of the request, and where its bytes begin in the buffer.
    std::size_t request = 0;
    std::size_t offset = 0;
    std::size_t bytes = 0;
  };
  std::vector<Slice> slices;
  std::size_t bytes = 0;

  bool fused() const { return slices.size() > 1; }
};

/// Offsets in a fusion buffer are multiples of this, which suits every dtype, and what a GPU loads
/// at once. Gaps are reduced as well, and travel with many small tensors: so no more than that.
constexpr std::size_t kFusionAlignment = 16;

/// A tensor of at least this size runs alone: copying it in and out costs more than a start of its own.
constexpr std::size_t kLargestFused = std::size_t{1} << 20;

/// Groups `requests`, which all ranks have agreed on in this order. All-reduces that agree in dtype,
/// op, factors and device share a group of at most `threshold` bytes; everything else is a group of its
/// own. Groups are ordered by their first request.
std::vector<FusionGroup> plan_fusion(std::span<const Request* const> requests,
                                     std::size_t threshold);

}  // namespace kolo::core
