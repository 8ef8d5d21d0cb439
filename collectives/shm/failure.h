#pragma once

#include <fmt/format.h>

#include <cstring>
#include <string_view>

#include "base/status.h"

namespace kolo::core::shm {

/// Of a system call; `error` is its errno.
inline Status failure(std::string_view what, int error) {
  return Status::error(fmt::format("{}: {}", what, std::strerror(error)));
}

}  // namespace kolo::core::shm
