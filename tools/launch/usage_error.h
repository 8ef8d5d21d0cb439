// The one exception of the launcher: the user has to change something before ranks can start.
#pragma once

#include <stdexcept>

namespace kolo::launch {

/// Its text says what is wrong and what to do; main() prints it and exits with 2.
class UsageError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

}  // namespace kolo::launch
