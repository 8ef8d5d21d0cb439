#include "bench/plotting.h"

#include <fmt/format.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <stdexcept>
#include <string>
#include <system_error>
#include <vector>

namespace kolo::bench {
namespace {

void run_script(std::vector<std::string> arguments) {
  const std::filesystem::path program = std::filesystem::read_symlink("/proc/self/exe");
  std::string script = (program.parent_path() / "kolo-bench-plot").string();
  std::vector<char*> argv = {script.data()};
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  pid_t child = 0;
  const int error = ::posix_spawn(&child, script.c_str(), nullptr, nullptr, argv.data(), environ);
  if (error != 0) {
    throw std::runtime_error(
        fmt::format("cannot start {}: {}", script, std::generic_category().message(error)));
  }
  int status = 0;
  if (::waitpid(child, &status, 0) != child || status != 0) {
    throw std::runtime_error("kolo-bench-plot failed");
  }
}

}  // namespace

void require_plotting() { run_script({"--check"}); }

void plot(const std::filesystem::path& json, const std::filesystem::path& picture) {
  run_script({json.string(), picture.string()});
}

}  // namespace kolo::bench
