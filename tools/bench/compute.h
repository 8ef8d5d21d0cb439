#pragma once

/// Time that a layer takes, without computing anything.

#include <chrono>

namespace kolo::bench {

using Seconds = std::chrono::duration<double>;

enum class ComputeAs {
  Sleep,  ///< another device computes: the core is free
  Work,   ///< the core computes: others that use it make this take longer
};

/// Spends time in small portions. What cannot be spent at once, or was overspent, counts for the
/// next portion.
class Compute {
 public:
  explicit Compute(ComputeAs as) : as_(as) {}

  void spend(Seconds portion);

 private:
  ComputeAs as_;
  Seconds owed_{0};
};

/// The processor time that this process has used so far.
Seconds process_cpu_time();

}  // namespace kolo::bench
