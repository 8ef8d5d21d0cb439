#pragma once

#include <cfenv>

#ifdef __SSE2__
#include <immintrin.h>
#endif

namespace kolo::core {

/// Arithmetic as C++ starts with, whatever rounding the caller has chosen for its own: ranks must get the
/// same bits.
#ifdef __SSE2__
/// All of Kolo's floating arithmetic is SSE's. To save the x87 unit's state as well, as <cfenv> does, takes
/// longer than a short all-reduce.
class DefaultArithmetic {
 public:
  DefaultArithmetic() { _mm_setcsr(kDefault); }
  ~DefaultArithmetic() { _mm_setcsr(callers_); }
  DefaultArithmetic(const DefaultArithmetic&) = delete;
  DefaultArithmetic& operator=(const DefaultArithmetic&) = delete;

 private:
  /// No exception traps, rounding to nearest, denormal numbers as they are.
  static constexpr unsigned kDefault = 0x1f80;

  const unsigned callers_ = _mm_getcsr();
};
#else
class DefaultArithmetic {
 public:
  DefaultArithmetic() {
    std::fegetenv(&callers_);
    std::fesetenv(FE_DFL_ENV);
  }
  ~DefaultArithmetic() { std::fesetenv(&callers_); }
  DefaultArithmetic(const DefaultArithmetic&) = delete;
  DefaultArithmetic& operator=(const DefaultArithmetic&) = delete;

 private:
  std::fenv_t callers_{};
};
#endif

}  // namespace kolo::core
