#pragma once

/// Ranks as threads of one process.

#include <functional>
#include <thread>
#include <vector>

namespace kolo::testing {

/// Runs `body(rank)` for each rank, each in a thread of its own, and waits for all.
inline void run_ranks(int size, const std::function<void(int)>& body) {
  std::vector<std::jthread> threads;
  for (int rank = 0; rank < size; ++rank) threads.emplace_back([&body, rank] { body(rank); });
}

}  // namespace kolo::testing
