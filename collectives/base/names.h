#pragma once

/// Names of operations, as people read them.

#include <string>
#include <string_view>

namespace kolo::core {

/// The name itself, or, of a long one, how it begins (whole UTF-8 characters) and its length: for
/// messages and the timeline.
std::string shortened(std::string_view name);

}  // namespace kolo::core
