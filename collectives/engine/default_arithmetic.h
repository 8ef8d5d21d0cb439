#pragma once

#include <cfenv>

namespace kolo::core {

/// Arithmetic as C++ starts with, whatever rounding the caller has chosen for its own: ranks must get the
/// same bits.
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

}  // namespace kolo::core
