#pragma once

#include <string>

namespace kolo::core {

/// A digest of the library (or program) that this code is part of, in hexadecimal digits, which the
/// linker has computed of all that it has put there. Two are alike when they were made by the same
/// tools, with the same options, from the same sources. Empty where the linker has left none.
std::string build_id();

}  // namespace kolo::core
