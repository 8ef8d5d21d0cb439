#pragma once

/// Where a trace's lines go: into the file, or to the rank that has it.

#include <string_view>

#include "base/status.h"

namespace kolo::core {

/// Used by one thread.
class TraceSink {
 public:
  virtual ~TraceSink() = default;

  /// Takes whole lines. Nothing is appended any more after a failure.
  virtual Status append(std::string_view lines) = 0;
};

}  // namespace kolo::core
