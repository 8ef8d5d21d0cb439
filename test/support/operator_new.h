#pragma once

/// For tests that are linked with kolo_test_operator_new.

#include <cstddef>

namespace kolo::testing {

/// Defined by the test: called before each allocation by operator new, which fails with what it
/// throws. It must not allocate.
void before_allocation(std::size_t bytes);

}  // namespace kolo::testing
