// Expects a UsageError and looks into its message.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "launch/usage_error.h"

namespace kolo::launch {

/// `body` throws a UsageError of one line that has every one of `parts`.
inline void expect_usage_error(const std::function<void()>& body,
                               const std::vector<std::string>& parts) {
  try {
    body();
    ADD_FAILURE() << "no error; expected one with '" << parts.front() << "'";
  } catch (const UsageError& error) {
    const std::string message = error.what();
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
    for (const auto& part : parts) {
      EXPECT_NE(message.find(part), std::string::npos) << "'" << part << "' in: " << message;
    }
  }
}

}  // namespace kolo::launch
