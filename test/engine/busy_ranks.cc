// Ranks that exchange small and large tensors, and operations of plans, until they are killed. For
// killed_ranks_test.py.

#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include "context/context.h"
#include "programs.h"

int main() {
  using namespace kolo::core;
  auto context = Context::create({}, connect_to_job);
  if (!context.ok()) {
    std::fprintf(stderr, "%s\n", context.status().message().c_str());
    return EXIT_FAILURE;
  }
  const programs::Set all = programs::world(*context.value());
  for (std::uint64_t i = 0;; ++i) {
    const std::int64_t count = i % 2 == 0 ? 10 : 500'000;
    programs::run(*context.value(), all, {.name = "t", .count = count, .seed = i});
    programs::run_plans(*context.value(), all, 3, i);
    if (i == 0) std::fprintf(stderr, "running\n");
  }
}
