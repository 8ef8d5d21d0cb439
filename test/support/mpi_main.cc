// main() of tests that run under mpirun. MPI is started as Kolo starts it; a test passes where it
// passes on all ranks. Rank 0 prints everything, the others what fails on them.

#include <gtest/gtest.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <utility>

#include "mpi/session.h"
#include "support/watchdog.h"

#ifdef __SANITIZE_ADDRESS__
// LeakSanitizer looks at the end for the library that has allocated what is left: Open MPI's
// plugins, which keep memory, have to be there still.
extern "C" int dlclose(void* /*handle*/) { return 0; }
#endif

namespace {

namespace mpi = kolo::core::mpi;

/// In place of GoogleTest's printer, on ranks other than 0.
class FailurePrinter final : public ::testing::EmptyTestEventListener {
 public:
  explicit FailurePrinter(int rank) : rank_(rank) {}

  void OnTestStart(const ::testing::TestInfo& test) override {
    name_ = std::string(test.test_suite_name()) + "." + test.name();
  }
  void OnTestEnd(const ::testing::TestInfo& /*test*/) override { name_.clear(); }

  // GoogleTest holds its lock here: it cannot be asked for the test.
  void OnTestPartResult(const ::testing::TestPartResult& result) override {
    if (!result.failed()) return;
    std::fprintf(stderr, "[rank %d] %s %s:%d: %s\n", rank_, name_.c_str(),
                 result.file_name() == nullptr ? "?" : result.file_name(), result.line_number(),
                 result.message());
  }

 private:
  const int rank_;
  std::string name_;
};

/// Makes each test end alike on all ranks, and not before all have got there.
class Agreement final : public ::testing::EmptyTestEventListener {
 public:
  explicit Agreement(mpi::Comm comm) : comm_(std::move(comm)) {}

  void OnTestEnd(const ::testing::TestInfo& test) override {
    enum Outcome : int { kFailed, kSkipped, kPassed };
    const ::testing::TestResult& result = *test.result();
    const int own = result.Failed() ? kFailed : result.Skipped() ? kSkipped : kPassed;
    const std::array<int, 2> mine = {own, -own};
    std::array<int, 2> extremes = mine;
    const int code = MPI_Allreduce(mine.data(), extremes.data(), 2, MPI_INT, MPI_MIN, comm_.get());
    const int worst = extremes[0];
    const int best = -extremes[1];
    if (const kolo::core::Status status = mpi::check(code, "MPI_Allreduce"); !status.ok()) {
      ADD_FAILURE() << status.message();
    } else if (worst == kFailed && own != kFailed) {
      ADD_FAILURE() << "failed on another rank";
    } else if (worst == kSkipped && best == kPassed) {
      ADD_FAILURE() << (own == kSkipped ? "not skipped" : "skipped") << " on another rank";
    }
  }

  void OnTestProgramEnd(const ::testing::UnitTest& /*all*/) override {
    std::fflush(nullptr);
    MPI_Barrier(comm_.get());
  }

 private:
  const mpi::Comm comm_;
};

void install_listeners(mpi::Comm comm) {
  const int rank = comm.rank();
  ::testing::TestEventListeners& listeners = ::testing::UnitTest::GetInstance()->listeners();
  if (rank != 0) {
    delete listeners.Release(listeners.default_result_printer());
    delete listeners.Release(listeners.default_xml_generator());
    listeners.Append(new FailurePrinter(rank));
  }
  // The ends of tests are told to listeners in reverse order: the watchdog watches the agreement,
  // too.
  kolo::testing::install_watchdog(rank);
  listeners.Append(new Agreement(std::move(comm)));
}

}  // namespace

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  const kolo::core::Result<mpi::Session> session = mpi::Session::open();
  if (!session.ok()) {
    std::fprintf(stderr, "%s\n", session.status().message().c_str());
    return EXIT_FAILURE;
  }
  kolo::core::Result<mpi::Comm> comm = session.value().duplicate_world();
  if (!comm.ok()) {
    std::fprintf(stderr, "%s\n", comm.status().message().c_str());
    return EXIT_FAILURE;
  }
  install_listeners(std::move(comm).value());
  return RUN_ALL_TESTS();
}
