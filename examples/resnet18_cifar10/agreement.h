#pragma once

#include <functional>
#include <string>

namespace resnet_example {

/// Runs `work` on this rank, waits for all others, and returns when it has given the same answer on
/// all of them. So a file that is missing on one host ends the program on every host, instead of
/// leaving the others to wait for a rank that is gone. Collective.
///
/// @throws on every rank when `work` threw on one: what it threw there (a UsageError stays one);
/// and
///         std::runtime_error that begins with `what` when the answers differ.
void agree(const std::string& what, const std::function<std::string()>& work);

/// Runs `work` on rank 0 only, and throws on every rank when it throws there. Collective.
void on_rank_0(const std::function<void()>& work);

}  // namespace resnet_example
