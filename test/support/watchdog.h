#pragma once

/// Ends a process whose test hangs, and shows where.

namespace kolo::testing {

/// From now on, a test that takes longer than KOLO_TEST_TIMEOUT seconds (60 if not set; 0: no
/// limit) has its name and the stacks of all threads printed, and the process ends with status 124.
/// To be called once, after InitGoogleTest and before listeners that communicate, so that their
/// time counts as well. `rank` is -1 where there is none.
void install_watchdog(int rank = -1);

}  // namespace kolo::testing
