#pragma once

/// The one Context of this process.

#include <memory>

#include "context/context.h"

namespace kolo::detail {

/// @throws kolo::Error before kolo::init() and after kolo::shutdown().
std::shared_ptr<core::Context> current_context();

}  // namespace kolo::detail
