#pragma once

/// What collectives/cuda/pack.h says of elements, on the host.

#include "cuda/copy_table.h"

namespace kolo::doubles {

void copy_elements(const core::cuda::Copy& copy, const core::cuda::PackFormat& format);

}  // namespace kolo::doubles
