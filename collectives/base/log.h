#pragma once

/// Messages to stderr, tagged with the rank.

#include <spdlog/spdlog.h>

#include <memory>
#include <string>

namespace kolo::core {

/// A thread-safe logger that prefixes each line with `[kolo rank R]`. Levels as in Config::log_level.
std::shared_ptr<spdlog::logger> make_logger(int rank, const std::string& level);

}  // namespace kolo::core
