#pragma once

#include <stdexcept>

namespace kolo {

/// What every failing call of Kolo throws. The message names the operation and the tensor, the
/// ranks that disagree and both values, and what to do about it.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

}  // namespace kolo
