#pragma once

/// The one Context of this process.

#include <memory>

#include "context/context.h"

namespace kolo {
class OptimizerFamily;
}

namespace kolo::detail {

/// @throws kolo::Error in a child of fork().
void require_own_process();

/// @throws kolo::Error in such a child, before kolo::init() and after kolo::shutdown().
std::shared_ptr<core::Context> current_context();

/// To which the optimizers of this process set belong that were made last; null when these are gone.
std::shared_ptr<OptimizerFamily> latest_family(core::ChannelId process_set);
void set_latest_family(core::ChannelId process_set, const std::shared_ptr<OptimizerFamily>& family);

}  // namespace kolo::detail
