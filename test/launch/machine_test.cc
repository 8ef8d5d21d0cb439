#include "launch/machine.h"

#include <gtest/gtest.h>

#include <cstdlib>

#include "expect_usage_error.h"

namespace kolo::launch {
namespace {

TEST(ParseOpenMpiMajor, ReadsWhatMpirunSays) {
  EXPECT_EQ(parse_open_mpi_major("mpirun (Open MPI) 4.1.4\n\nReport bugs to ...\n"), 4);
  EXPECT_EQ(parse_open_mpi_major("mpirun (Open MPI) 5.0.11\n"), 5);
  EXPECT_EQ(parse_open_mpi_major("mpiexec (OpenRTE) 4.1.8\n"), 4);
  EXPECT_EQ(parse_open_mpi_major("a warning\nmpirun (Open MPI) 5.1.0a1\n"), 5);
}

TEST(ParseOpenMpiMajor, KnowsNoOtherMpi) {
  EXPECT_EQ(parse_open_mpi_major(""), std::nullopt);
  EXPECT_EQ(parse_open_mpi_major("HYDRA build details:\n    Version: 4.0.2\n"), std::nullopt);
  EXPECT_EQ(parse_open_mpi_major("mpirun (Open MPI) unknown"), std::nullopt);
}

TEST(SearchPath, HasADefault) {
  EXPECT_EQ(search_path({{"PATH", "/a:/b"}}), "/a:/b");
  EXPECT_EQ(search_path({}), "/bin:/usr/bin");
}

TEST(InspectMachine, CountsAtLeastOneCpu) {
  const char* const path = std::getenv("PATH");
  const auto machine = inspect_machine({{"PATH", path != nullptr ? path : "/usr/bin"}});
  EXPECT_GE(machine.cpus, 1);
  EXPECT_GE(machine.packages, 0);
  EXPECT_GE(machine.open_mpi_major, 4);
}

TEST(InspectMachine, SaysHowToGetAnMpirun) {
  expect_usage_error(
      [] {
        inspect_machine({{"PATH", "/nowhere"}});
      },
      {"'mpirun' is not installed", "apt install openmpi-bin", "KOLO_MPIRUN"});
  expect_usage_error(
      [] {
        inspect_machine({{"KOLO_MPIRUN", "/no/mpirun"}});
      },
      {"'/no/mpirun' is not installed"});
  expect_usage_error(
      [] {
        inspect_machine({{"KOLO_MPIRUN", "/bin/echo"}});
      },
      {"'/bin/echo' is not Open MPI's (its --version says '"});
}

TEST(Locate, TellsThisMachineFromOthers) {
  EXPECT_EQ(locate({"localhost"}), HostPlace::Here);
  EXPECT_EQ(locate({"127.0.0.1"}), HostPlace::Here);
  EXPECT_EQ(locate({"127.0.1.1"}), HostPlace::Here);
  EXPECT_EQ(locate({"192.0.2.1"}), HostPlace::Elsewhere);  // an address for documentation
  // With an empty label, so that no name server is asked, which may be slow.
  EXPECT_EQ(locate({"no-such-host..invalid"}), HostPlace::Unknown);
}

}  // namespace
}  // namespace kolo::launch
