#pragma once

/// Numbers whose sum over the ranks is known, to check results before anything is timed.

#include <cstddef>
#include <optional>
#include <span>
#include <string>

namespace kolo::bench {

/// What `rank` adds to an element: 0 or 1, without a pattern that a misplaced element would fit
/// into. Sums are exact in every dtype for up to 127 ranks.
double contribution(int rank, std::size_t tensor, std::size_t index);

/// The sum of all ranks' contributions.
double exact_sum(int ranks, std::size_t tensor, std::size_t index);

/// Says where `values`, the elements of tensor number `tensor`, first differ from the exact sums;
/// or nothing.
std::optional<std::string> find_wrong(std::span<const double> values, int ranks,
                                      std::size_t tensor);

}  // namespace kolo::bench
