#include "engine/transfer_cost.h"

#include <algorithm>

namespace kolo::core {
namespace {

/// Sums over transfers of g groups and b bytes that took t, weighted by 1 / t².
struct Sums {
  double gg = 0;
  double gb = 0;
  double bb = 0;
  double gt = 0;
  double bt = 0;

  explicit Sums(std::span<const Transfer> transfers) {
    for (const Transfer& transfer : transfers) {
      if (transfer.seconds <= 0) continue;
      const double g = static_cast<double>(transfer.groups) / transfer.seconds;
      const double b = static_cast<double>(transfer.bytes) / transfer.seconds;
      gg += g * g;
      gb += g * b;
      bb += b * b;
      gt += g;
      bt += b;
    }
  }

  /// Of the line that is nearest of those with this latency.
  double per_byte(double latency) const { return std::max(0.0, (bt - latency * gb) / bb); }
};

}  // namespace

TransferCost fit_cost(std::span<const Transfer> transfers) {
  const Sums sums(transfers);
  TransferCost cost;
  if (sums.bb == 0) return cost;
  // 0 when all have as many bytes a group.
  const double spread = sums.gg * sums.bb - sums.gb * sums.gb;
  if (spread > 1e-9 * sums.gg * sums.bb) {
    const bool falls = sums.gg * sums.bt < sums.gb * sums.gt;
    cost.latency = falls ? sums.gt / sums.gg : (sums.bb * sums.gt - sums.gb * sums.bt) / spread;
    cost.latency = std::max(cost.latency, kLeastLatency);
  }
  cost.per_byte = sums.per_byte(cost.latency);
  return cost;
}

}  // namespace kolo::core
