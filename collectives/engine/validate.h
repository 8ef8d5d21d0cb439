#pragma once

/// Do requests of the same name belong together? Pure functions; an empty string means yes.

#include <span>
#include <string>

#include "wire/messages.h"

namespace kolo::core {

/// What is wrong with a request by itself, on a process set of these global ranks.
std::string check_request(const Request& request, std::span<const int> ranks);

/// Why two ranks' requests of the same name cannot be one operation: names the tensor, both ranks and
/// both values.
std::string find_mismatch(const Request& first, int first_rank, const Request& other,
                          int other_rank);

/// Why an operation fails that a rank has left without.
std::string departure_error(int rank);

/// The same of one that it had submitted.
std::string withdrawal_error(int rank);

/// Why an operation of a plan fails that a rank has ended without.
std::string plan_end_error(int rank);

}  // namespace kolo::core
