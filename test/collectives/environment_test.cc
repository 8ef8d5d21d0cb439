// What the environment says: of launchers, of a rank's place, and settings.

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "base/config.h"
#include "base/cpu_quota.h"
#include "base/launcher.h"

namespace kolo::core {
namespace {

using Variables = std::map<std::string, std::string, std::less<>>;

std::optional<Launcher> launcher_in(const Variables& variables) {
  return find_launcher([&](std::string_view name) -> std::optional<std::string> {
    const auto found = variables.find(name);
    return found == variables.end() ? std::nullopt : std::optional(found->second);
  });
}

struct Expected {
  Variables variables;
  std::string name;
  int rank = 0;
  int size = 0;
  bool of_mpi = false;
};

const std::vector<Expected> kLaunchers = {
    {{{"OMPI_COMM_WORLD_RANK", "2"}, {"OMPI_COMM_WORLD_SIZE", "3"}, {"PMIX_RANK", "2"}},
     "Open MPI's mpirun (OMPI_COMM_WORLD_RANK, OMPI_COMM_WORLD_SIZE)",
     2,
     3,
     true},
    // Its daemons are started by srun.
    {{{"OMPI_COMM_WORLD_RANK", "0"},
      {"OMPI_COMM_WORLD_SIZE", "4"},
      {"SLURM_PROCID", "1"},
      {"SLURM_NTASKS", "2"},
      {"SLURM_STEP_ID", "0"}},
     "Open MPI's mpirun (OMPI_COMM_WORLD_RANK, OMPI_COMM_WORLD_SIZE)",
     0,
     4,
     true},
    {{{"PMI_RANK", "1"}, {"PMI_SIZE", "2"}, {"MPI_LOCALRANKID", "1"}, {"MPI_LOCALNRANKS", "2"}},
     "a launcher with PMI, such as MPICH's mpiexec or Slurm's srun (PMI_RANK, PMI_SIZE)",
     1,
     2,
     true},
    {{{"MV2_COMM_WORLD_RANK", "0"}, {"MV2_COMM_WORLD_SIZE", "2"}},
     "MVAPICH's mpiexec (MV2_COMM_WORLD_RANK, MV2_COMM_WORLD_SIZE)",
     0,
     2,
     true},
    {{{"PMIX_RANK", "0"}}, "a launcher with PMIx (PMIX_RANK)", 0, 0, true},
    {{{"PMIX_RANK", "3"}, {"SLURM_STEP_NUM_TASKS", "8"}, {"SLURM_STEP_ID", "0"}},
     "Slurm's srun with PMIx (PMIX_RANK, SLURM_STEP_NUM_TASKS)",
     3,
     8,
     true},
    {{{"SLURM_PROCID", "1"},
      {"SLURM_STEP_NUM_TASKS", "2"},
      {"SLURM_NTASKS", "8"},
      {"SLURM_STEP_ID", "0"}},
     "Slurm's srun without PMIx (SLURM_PROCID, SLURM_STEP_NUM_TASKS)",
     1,
     2,
     false},
    {{{"SLURM_PROCID", "0"}, {"SLURM_NTASKS", "2"}, {"SLURM_STEP_ID", "3"}},
     "Slurm's srun without PMIx (SLURM_PROCID, SLURM_NTASKS)",
     0,
     2,
     false},
    {{{"RANK", "1"}, {"WORLD_SIZE", "2"}, {"LOCAL_RANK", "1"}, {"TORCHELASTIC_RUN_ID", "none"}},
     "torchrun (RANK, WORLD_SIZE)",
     1,
     2,
     false},
    {{{"RANK", "0"}, {"WORLD_SIZE", "2"}},
     "a launcher like torchrun (RANK, WORLD_SIZE)",
     0,
     2,
     false},
    {{{"FLUX_TASK_RANK", "1"}, {"FLUX_JOB_SIZE", "2"}},
     "Flux (FLUX_TASK_RANK, FLUX_JOB_SIZE)",
     1,
     2,
     false},
    {{{"JSM_NAMESPACE_RANK", "1"}, {"JSM_NAMESPACE_SIZE", "2"}},
     "IBM's jsrun (JSM_NAMESPACE_RANK, JSM_NAMESPACE_SIZE)",
     1,
     2,
     false}};

TEST(Launchers, AreKnownByTheirVariables) {
  for (const Expected& expected : kLaunchers) {
    SCOPED_TRACE(expected.name);
    const auto launcher = launcher_in(expected.variables);
    ASSERT_TRUE(launcher);
    EXPECT_EQ(launcher->name, expected.name);
    EXPECT_EQ(launcher->rank, expected.rank);
    EXPECT_EQ(launcher->size, expected.size);
    EXPECT_EQ(launcher->of_mpi, expected.of_mpi);
    EXPECT_FALSE(launcher->started_one());
  }
}

TEST(Launchers, AreNotWhatAnAllocationLeavesInAShell) {
  const std::vector<Variables> shells = {
      {},
      {{"WORLD_SIZE", "4"}},
      {{"RANK", "first"}, {"WORLD_SIZE", "4"}},
      // Of salloc, and of a batch script.
      {{"SLURM_JOB_ID", "7"}, {"SLURM_NTASKS", "8"}},
      {{"SLURM_JOB_ID", "7"}, {"SLURM_NTASKS", "8"}, {"SLURM_PROCID", "0"}},
      {{"SLURM_NTASKS", "8"}, {"SLURM_PROCID", "0"}, {"SLURM_STEP_ID", "4294967290"}}};
  for (const Variables& variables : shells) {
    const auto launcher = launcher_in(variables);
    EXPECT_FALSE(launcher) << launcher->name;
  }
}

TEST(Launchers, MayHaveStartedOneProcess) {
  const std::vector<Variables> ones = {{{"RANK", "0"}, {"WORLD_SIZE", "1"}},
                                       {{"PMI_RANK", "0"}, {"PMI_SIZE", "1"}},
                                       {{"SLURM_PROCID", "0"},
                                        {"SLURM_STEP_NUM_TASKS", "1"},
                                        {"SLURM_NTASKS", "8"},
                                        {"SLURM_STEP_ID", "0"}}};
  for (const Variables& variables : ones) EXPECT_TRUE(launcher_in(variables).value().started_one());
}

/// Variables of this process, until it goes. The test is the only thread.
class Environment {
 public:
  explicit Environment(Variables variables) : variables_(std::move(variables)) {
    for (const auto& [name, value] : variables_) setenv(name.c_str(), value.c_str(), 1);
  }
  Environment(const Environment&) = delete;
  Environment& operator=(const Environment&) = delete;
  ~Environment() {
    for (const auto& [name, value] : variables_) unsetenv(name.c_str());
  }

 private:
  const Variables variables_;
};

std::string refusal_of(const Variables& variables) {
  const Environment environment(variables);
  const Result<Config> config = Config::from_environment();
  return config.ok() ? "" : config.status().message();
}

TEST(Settings, AreNotWhatServicesAreCalled) {
  for (const std::string name : {"KOLO", "KOLO_MASTER"}) {
    EXPECT_EQ(refusal_of({{name + "_SERVICE_HOST", "10.0.0.1"},
                          {name + "_SERVICE_PORT", "80"},
                          {name + "_SERVICE_PORT_HTTP", "80"},
                          {name + "_PORT", "tcp://10.0.0.1:80"},
                          {name + "_PORT_80_TCP", "tcp://10.0.0.1:80"},
                          {name + "_PORT_80_TCP_PROTO", "tcp"},
                          {name + "_PORT_80_TCP_PORT", "80"},
                          {name + "_PORT_80_TCP_ADDR", "10.0.0.1"},
                          {name + "_PORT_53_UDP", "udp://10.0.0.1:53"}}),
              "");
  }
}

TEST(Settings, AreKnown) {
  for (const auto& [name, value] : Variables{{"KOLO_PORT", "80"},
                                             {"KOLO_PORT_80_TCP_X", "1"},
                                             {"KOLO_PORT_X_TCP", "1"},
                                             {"KOLO_PORT_80", "tcp://10.0.0.1:80"},
                                             {"KOLO_SERVICE", "10.0.0.1"}}) {
    EXPECT_EQ(refusal_of({{name, value}}).substr(0, name.size() + 26),
              name + " is not a setting of Kolo.");
  }
}

TEST(Settings, OfBeingAlone) {
  EXPECT_FALSE(Config::from_environment().value().alone);
  EXPECT_EQ(refusal_of({{"KOLO_ALONE", "yes"}}), "KOLO_ALONE='yes' is not valid: expected 1 or 0");
  const Environment environment(Variables{{"KOLO_ALONE", "1"}});
  EXPECT_TRUE(Config::from_environment().value().alone);
}

class Quota : public ::testing::Test {
 protected:
  void SetUp() override { std::filesystem::remove_all(root_); }
  void TearDown() override { std::filesystem::remove_all(root_); }

  void write(const std::string& name, const std::string& text) const {
    const std::filesystem::path path = root_ / name;
    std::filesystem::create_directories(path.parent_path());
    std::ofstream(path) << text << "\n";
  }

  const std::filesystem::path root_ =
      ::testing::TempDir() + "/kolo-quota-" + std::to_string(getpid());
};

TEST_F(Quota, OfVersion2IsTheLeastOfTheGroupsAround) {
  write("proc/self/cgroup", "0::/pod/container");
  write("sys/fs/cgroup/pod/container/cpu.max", "max 100000");
  EXPECT_EQ(cpu_quota(root_), std::nullopt);
  write("sys/fs/cgroup/pod/cpu.max", "250000 100000");
  EXPECT_EQ(cpu_quota(root_), 2.5);
  write("sys/fs/cgroup/pod/container/cpu.max", "50000 100000");
  EXPECT_EQ(cpu_quota(root_), 0.5);
}

TEST_F(Quota, OfVersion1IsWhereAContainerSeesIt) {
  write("proc/self/cgroup", "4:memory:/docker/x\n3:cpu,cpuacct:/docker/x");
  write("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1");
  write("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000");
  EXPECT_EQ(cpu_quota(root_), std::nullopt);
  write("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "150000");
  EXPECT_EQ(cpu_quota(root_), 1.5);
}

TEST(Place, IsOnesOwnUntilAChildInheritsIt) {
  EXPECT_FALSE(has_place_of_its_parent());
  mark_as_rank();
  EXPECT_FALSE(has_place_of_its_parent());
  const Environment place(Variables{{"PMIX_NAMESPACE", "job"}, {"PMIX_RANK", "1"}});
  mark_as_rank();
  EXPECT_FALSE(has_place_of_its_parent());
  EXPECT_EQ(refusal_of({}), "");
  // As another process would have written.
  std::string mark = std::getenv("KOLO_RANK_PROCESS");
  setenv("KOLO_RANK_PROCESS", ("1" + mark).c_str(), 1);
  EXPECT_TRUE(has_place_of_its_parent());
  // An mpirun has given it another place meanwhile.
  const Environment other(Variables{{"PMIX_NAMESPACE", "another job"}});
  EXPECT_FALSE(has_place_of_its_parent());
  unsetenv("KOLO_RANK_PROCESS");
}

}  // namespace
}  // namespace kolo::core
