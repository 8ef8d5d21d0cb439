#include "base/log.h"

#include <fmt/format.h>
#include <spdlog/sinks/stdout_sinks.h>

namespace kolo::core {

std::shared_ptr<spdlog::logger> make_logger(int rank, const std::string& level) {
  auto logger = std::make_shared<spdlog::logger>(
      "kolo", std::make_shared<spdlog::sinks::stderr_sink_mt>());
  logger->set_pattern(fmt::format("[%H:%M:%S.%e] [kolo rank {}] %l: %v", rank));
  logger->set_level(spdlog::level::from_str(level));
  return logger;
}

}  // namespace kolo::core
