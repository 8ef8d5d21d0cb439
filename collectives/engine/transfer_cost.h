#pragma once

/// What it takes to reduce a group of gradients over all ranks, as a line fitted to what it took. Pure.

#include <cstddef>
#include <span>

namespace kolo::core {

/// In seconds.
struct TransferCost {
  double latency = 20e-6;
  double per_byte = 1e-10;

  double of(std::size_t bytes) const { return latency + per_byte * static_cast<double>(bytes); }
};

/// Groups of so many bytes, one after the other or at the same time.
struct Transfer {
  std::size_t groups = 1;
  std::size_t bytes = 0;
  double seconds = 0;
};

/// No group takes less; and a latency of nearly nothing would make a group of each tensor.
constexpr double kLeastLatency = 5e-6;

/// The line that is nearest to `transfers` in the sum of squared relative errors: what disturbs a transfer only
/// makes it longer, and one that took far longer than the others counts for little by this measure. Neither
/// part is negative. Where all have as many bytes a group, or where there is none, TransferCost's defaults take
/// the place of what cannot be known.
TransferCost fit_cost(std::span<const Transfer> transfers);

}  // namespace kolo::core
