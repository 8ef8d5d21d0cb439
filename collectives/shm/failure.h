#pragma once

#include <fmt/format.h>

#include <cerrno>
#include <cstring>
#include <string_view>

#include "base/status.h"

namespace kolo::core::shm {

/// Of a system call; `error` is its errno.
inline Status failure(std::string_view what, int error) {
  const std::string_view way_out = error == EMFILE ? " (see ulimit -n)" : "";
  return Status::error(fmt::format("{}: {}{}", what, std::strerror(error), way_out));
}

}  // namespace kolo::core::shm
