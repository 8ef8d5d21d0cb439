#pragma once

/// Drawing by kolo-bench-plot, a script beside this program.

#include <filesystem>

namespace kolo::bench {

/// @throws std::runtime_error that says what to install, when plots cannot be drawn.
void require_plotting();

/// @throws std::runtime_error when the script fails; it has said why.
void plot(const std::filesystem::path& json, const std::filesystem::path& picture);

}  // namespace kolo::bench
