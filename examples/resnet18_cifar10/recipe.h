#pragma once

/// What decides the numbers of a run: all ranks must agree on it, and so must a run and the
/// checkpoint that it goes on from.

#include <string>

#include "dataset.h"
#include "options.h"

namespace resnet_example {

/// One 'name = value' a line.
std::string training_recipe(const Options& options, const Dataset& dataset, int ranks);

/// The lines that are not the same in two texts, as "lr = 0.1 (rank 0), lr = 0.2 (rank 1)".
std::string differing_lines(const std::string& a, const std::string& name_of_a,
                            const std::string& b, const std::string& name_of_b);

}  // namespace resnet_example
