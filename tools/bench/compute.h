#pragma once

/// Time that a layer takes, without computing anything.

#include <chrono>
#include <functional>

namespace kolo::bench {

using Seconds = std::chrono::duration<double>;

enum class ComputeAs {
  Sleep,  ///< another device computes: the core is free
  Work,   ///< the core computes: others that use it make this take longer
};

/// Spends time in small portions. What cannot be spent at once, or was overspent by less than a pause of the
/// machine, counts for the next portion.
class Compute {
 public:
  /// Takes about so long, and tells how long it was.
  using Spend = std::function<Seconds(Seconds)>;

  explicit Compute(ComputeAs as);
  /// `spend` is not called for less than `shortest`.
  Compute(Spend spend, Seconds shortest);

  void spend(Seconds portion);

 private:
  Spend spend_;
  Seconds shortest_;
  Seconds owed_{0};
};

/// The processor time that this process has used so far.
Seconds process_cpu_time();

}  // namespace kolo::bench
