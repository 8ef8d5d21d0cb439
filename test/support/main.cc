// main() of tests that run in one process.

#include <gtest/gtest.h>

#include "support/watchdog.h"

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  kolo::testing::install_watchdog();
  return RUN_ALL_TESTS();
}
