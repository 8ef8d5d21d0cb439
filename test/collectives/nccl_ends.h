#pragma once

/// Communicators that end in peace, which tests count.

#include <chrono>

#include "gpu_ranks.h"

namespace kolo::core::gpus {

/// For longer than a test may take, so that none is aborted because the machine was busy.
constexpr auto kPatience = std::chrono::hours(1);

inline Options with_patience() {
  Options options;
  options.change_settings = [](int /*rank*/, NcclDataPlane::Settings settings) {
    settings.end_within = kPatience;
    return settings;
  };
  return options;
}

}  // namespace kolo::core::gpus
