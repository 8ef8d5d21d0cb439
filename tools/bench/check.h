#pragma once

/// Numbers whose sum over the ranks is known, to check results before anything is timed.

#include <cstddef>
#include <functional>
#include <optional>
#include <span>
#include <string>

#include "bench/ranks.h"

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

/// A sum over the ranks, of which this is one: gives `values` its contributions to tensor number
/// `tensor`, lets `sum` replace them, and says what is wrong then; or nothing.
std::optional<std::string> check_sum(std::span<double> values, std::size_t tensor, int rank,
                                     int ranks, const std::function<void()>& sum);

/// So many calls check a method: for Kolo a name recurs from the third on.
constexpr std::size_t kCheckedCalls = 5;

/// The same of several calls, each with other values. It makes them all, as the other ranks do.
std::optional<std::string> check_calls(std::span<double> values, int rank, int ranks,
                                       const std::function<void()>& sum);

/// Says where `values` first differ from the means of all ranks' `contributions`, rank by rank, by
/// more than float32 rounds in any order of adding and scaling; or nothing.
std::optional<std::string> find_wrong_mean(std::span<const float> values,
                                           std::span<const float> contributions, int ranks);

/// Collective, so that no rank waits for one that has stopped.
/// @throws std::runtime_error on all ranks when one of them has found something `wrong`.
void require_right(const std::string& method, const std::optional<std::string>& wrong,
                   const Ranks& ranks);

}  // namespace kolo::bench
