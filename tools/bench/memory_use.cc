#include "bench/memory_use.h"

#include <fmt/format.h>
#include <malloc.h>

#include <cerrno>
#include <charconv>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <system_error>

namespace kolo::bench {
namespace {

std::string read(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

std::int64_t require_kilobytes(const std::string& path, const std::string& text,
                               std::string_view name) {
  const std::int64_t bytes = find_kilobytes(text, name);
  if (bytes < 0) throw std::runtime_error(fmt::format("{} has no line {}", path, name));
  return bytes;
}

}  // namespace

MemoryUse memory_use() {
  const std::string shares_path = "/proc/self/smaps_rollup";
  const std::string shares = read(shares_path);
  const std::string status_path = "/proc/self/status";
  const std::string status = read(status_path);
  return {.now = require_kilobytes(shares_path, shares, "Pss_Anon") +
                 require_kilobytes(shares_path, shares, "Pss_Shmem"),
          .peak_beyond_now = require_kilobytes(status_path, status, "VmHWM") -
                             require_kilobytes(status_path, status, "VmRSS")};
}

void forget_peak() {
  ::malloc_trim(0);
  // "5" resets VmHWM: see proc(5).
  const std::string path = "/proc/self/clear_refs";
  std::ofstream file(path);
  file << 5 << std::flush;
  if (file) return;
  throw std::runtime_error(fmt::format(
      "cannot write {} ({}), so the most memory in use cannot be measured: run it where /proc is "
      "writable",
      path, std::generic_category().message(errno)));
}

std::int64_t find_kilobytes(std::string_view text, std::string_view name) {
  std::istringstream lines{std::string(text)};
  for (std::string line; std::getline(lines, line);) {
    if (!line.starts_with(name) || line[name.size()] != ':') continue;
    const auto digit = line.find_first_of("0123456789");
    if (digit == std::string::npos) return -1;
    std::int64_t kilobytes = 0;
    std::from_chars(line.data() + digit, line.data() + line.size(), kilobytes);
    return kilobytes * 1024;
  }
  return -1;
}

}  // namespace kolo::bench
