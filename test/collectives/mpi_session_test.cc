// MPI as users may have left it. Each of these states is for good: one test, step by step.

#include <gtest/gtest.h>

#include <string>

#include "mpi/session.h"

namespace kolo::core::mpi {
namespace {

std::string refusal() {
  const Result<Session> session = Session::open();
  return session.ok() ? "" : session.status().message();
}

TEST(MpiSession, SaysWhatTheUserHasToChange) {
  int level = 0;
  MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &level);
  if (level < MPI_THREAD_SERIALIZED) {
    const std::string message = refusal();
    EXPECT_NE(message.find("with MPI_THREAD_FUNNELED"), std::string::npos) << message;
    EXPECT_NE(message.find("call MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE"),
              std::string::npos)
        << message;
  }
  MPI_Finalize();
  EXPECT_FALSE(is_active());
  const std::string message = refusal();
  EXPECT_NE(message.find("move kolo::init() before the call of MPI_Finalize"), std::string::npos)
      << message;
}

}  // namespace
}  // namespace kolo::core::mpi
