#include "launch/mpirun_command.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace kolo::launch {
namespace {

using Words = std::vector<std::string>;

Machine machine(int cpus, int open_mpi_major, int packages = 1) {
  Machine result;
  result.cpus = cpus;
  result.packages = packages;
  result.open_mpi_major = open_mpi_major;
  return result;
}

LaunchOptions ranks_here(int num_proc) {
  LaunchOptions options;
  options.num_proc = num_proc;
  options.hosts = {{"localhost", num_proc}};
  options.command = {"./train"};
  return options;
}

/// The options that say where ranks go: what stands between -H LIST and the first -x.
Words placement(const MpirunCommand& command) {
  const auto end = std::find(command.arguments.begin(), command.arguments.end(), "-x");
  return {command.arguments.begin() + 5, end};
}

/// The NAMEs of all -x NAME.
Words exported(const MpirunCommand& command) {
  Words names;
  for (std::size_t i = 0; i + 1 < command.arguments.size(); ++i) {
    if (command.arguments[i] == "-x") names.push_back(command.arguments[i + 1]);
  }
  return names;
}

Words placement_of(int num_proc, const Machine& on) {
  return placement(make_mpirun_command(ranks_here(num_proc), on, true));
}

TEST(MpirunCommand, IsCompleteForOpenMpi4) {
  EXPECT_EQ(make_mpirun_command(ranks_here(2), machine(8, 4), true).arguments,
            (Words{"mpirun", "-np", "2", "-H", "localhost:2", "--use-hwthread-cpus", "--map-by",
                   "slot:PE=4", "--bind-to", "hwthread", "-x", "OMP_NUM_THREADS", "./train"}));
}

TEST(MpirunCommand, IsCompleteForOpenMpi5) {
  EXPECT_EQ(make_mpirun_command(ranks_here(2), machine(8, 5), true).arguments,
            (Words{"mpirun", "-np", "2", "-H", "localhost:2", "--map-by", "slot:PE=4:HWTCPUS",
                   "--bind-to", "hwthread", "-x", "OMP_NUM_THREADS", "./train"}));
}

TEST(MpirunCommand, SharesCpusWhenRanksOutnumberThem) {
  EXPECT_EQ(placement_of(3, machine(2, 4)),
            (Words{"--bind-to", "none", "--mca", "mpi_yield_when_idle", "1", "--oversubscribe"}));
  EXPECT_EQ(placement_of(3, machine(2, 5)),
            (Words{"--bind-to", "none", "--mca", "mpi_yield_when_idle", "1", "--map-by",
                   ":OVERSUBSCRIBE"}));
}

TEST(MpirunCommand, DoesNotBindInDoubt) {
  const Words unbound{"--bind-to", "none"};
  EXPECT_EQ(placement_of(1, machine(8, 4)), unbound);      // it has the machine for itself
  EXPECT_EQ(placement_of(2, machine(8, 4, 0)), unbound);   // unknown packages, or a smaller mask
  EXPECT_EQ(placement_of(3, machine(16, 5, 2)), unbound);  // 5 CPUs each: one spans two packages
}

TEST(MpirunCommand, BindsWithinPackages) {
  EXPECT_EQ(placement_of(2, machine(16, 5, 2))[1], "slot:PE=8:HWTCPUS");
  EXPECT_EQ(placement_of(4, machine(16, 5, 2))[1], "slot:PE=4:HWTCPUS");
  EXPECT_EQ(placement_of(16, machine(16, 5, 2))[1], "slot:PE=1:HWTCPUS");
  EXPECT_EQ(placement_of(3, machine(16, 5, 1))[1], "slot:PE=5:HWTCPUS");
}

TEST(MpirunCommand, DoesNotGuessTheCpusOfRemoteHosts) {
  auto options = ranks_here(4);
  options.hosts = {{"node1", 2}, {"node2", 2}};
  for (const int major : {4, 5}) {
    const auto command = make_mpirun_command(options, machine(2, major), false);
    EXPECT_EQ(command.arguments[4], "node1:2,node2:2");
    EXPECT_EQ(placement(command), (Words{"--bind-to", "none"}));
  }
}

TEST(MpirunCommand, SharesThreadsBetweenTheRanksOfAHost) {
  const auto threads = [](const LaunchOptions& options, bool all_here) {
    return make_mpirun_command(options, machine(8, 4), all_here).environment.at("OMP_NUM_THREADS");
  };
  EXPECT_EQ(threads(ranks_here(1), true), "8");
  EXPECT_EQ(threads(ranks_here(3), true), "2");
  EXPECT_EQ(threads(ranks_here(20), true), "1");
  auto options = ranks_here(4);
  options.hosts = {{"node1", 2}, {"node2", 2}};
  EXPECT_EQ(threads(options, false), "4");
  options.hosts = {{"localhost", 2}, {"127.0.0.1", 2}};
  EXPECT_EQ(threads(options, true), "2");
}

TEST(MpirunCommand, LeavesThreadsAloneWhereTheyAreNotItsBusiness) {
  auto options = ranks_here(2);
  options.hosts = {{"node1", 1}, {"node2", 1}};
  EXPECT_TRUE(make_mpirun_command(options, machine(2, 5), false).environment.empty());

  auto chosen = machine(8, 5);
  chosen.environment["OMP_NUM_THREADS"] = "3";
  const auto command = make_mpirun_command(ranks_here(2), chosen, true);
  EXPECT_TRUE(command.environment.empty());
  EXPECT_EQ(exported(command), Words{"OMP_NUM_THREADS"});
}

TEST(MpirunCommand, HandsTheRightVariablesToEveryRank) {
  auto from = machine(1, 4);
  from.environment = {{"HOME", "/root"},     {"KOLO_A", "1"},        {"KOLO_TIMELINE", "old.json"},
                      {"PATH", "/bin"},      {"PYTHONPATH", "/py"},  {"LD_LIBRARY_PATH", "/lib"},
                      {"KOLOSSUS", "large"}, {"MY_KOLO_THING", "no"}};
  auto options = ranks_here(1);
  options.timeline_filename = "/t.json";
  options.fusion_threshold = 1024;
  options.log_level = "info";
  const auto command = make_mpirun_command(options, from, true);
  EXPECT_EQ(exported(command),
            (Words{"KOLO_A", "KOLO_FUSION_THRESHOLD", "KOLO_LOG_LEVEL", "KOLO_TIMELINE",
                   "LD_LIBRARY_PATH", "OMP_NUM_THREADS", "PATH", "PYTHONPATH"}));
  EXPECT_EQ(command.environment, (Environment{{"KOLO_FUSION_THRESHOLD", "1024"},
                                              {"KOLO_LOG_LEVEL", "info"},
                                              {"KOLO_TIMELINE", "/t.json"},
                                              {"OMP_NUM_THREADS", "1"},
                                              {"PMIX_MCA_gds", "hash"}}));
}

TEST(MpirunCommand, OpenMpi4EndsWhenARankIsKilledEarly) {
  const auto tables = [](const Machine& machine) {
    const Environment added = make_mpirun_command(ranks_here(2), machine, true).environment;
    return added.contains("PMIX_MCA_gds") ? added.at("PMIX_MCA_gds") : "as it was";
  };
  EXPECT_EQ(tables(machine(2, 4)), "hash");
  EXPECT_EQ(tables(machine(2, 5)), "as it was");
  auto chosen = machine(2, 4);
  chosen.environment["PMIX_MCA_gds"] = "ds21";
  EXPECT_EQ(tables(chosen), "as it was");
}

TEST(MpirunCommand, AllowsRoot) {
  auto root = machine(1, 4);
  root.is_root = true;
  root.environment = {{"OMP_NUM_THREADS", "1"}, {"PMIX_MCA_gds", "hash"}};
  Environment expected{{"OMPI_ALLOW_RUN_AS_ROOT", "1"}, {"OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1"}};
  EXPECT_EQ(make_mpirun_command(ranks_here(1), root, true).environment, expected);
  root.open_mpi_major = 5;
  expected["PRTE_ALLOW_RUN_AS_ROOT"] = "1";
  expected["PRTE_ALLOW_RUN_AS_ROOT_CONFIRM"] = "1";
  EXPECT_EQ(make_mpirun_command(ranks_here(1), root, true).environment, expected);
}

/// What follows the last -x NAME.
Words user_part(const Words& user_command, int open_mpi_major) {
  auto options = ranks_here(1);
  options.command = user_command;
  const auto words = make_mpirun_command(options, machine(1, open_mpi_major), true).arguments;
  return {std::find(words.begin(), words.end(), "OMP_NUM_THREADS") + 1, words.end()};
}

TEST(MpirunCommand, HidesFromMpirunWhatItWouldTakeForItsOwn) {
  const Words plain{"./train", "data", "it's"};
  const Words options{"./train", "--bind-to", "it's"};
  const Words colon{"./train", ":", "b c"};
  EXPECT_EQ(user_part(plain, 4), plain);
  EXPECT_EQ(user_part(plain, 5), plain);
  EXPECT_EQ(user_part(options, 4), options);
  EXPECT_EQ(user_part(options, 5), (Words{"/bin/sh", "-c", "exec ./train --bind-to 'it'\\''s'"}));
  EXPECT_EQ(user_part(colon, 4), (Words{"/bin/sh", "-c", "exec ./train : 'b c'"}));
}

TEST(ShellLine, SetsTheEnvironmentAndQuotes) {
  const MpirunCommand command{{"mpirun", "-np", "2", "./my train", "$x"},
                              {{"KOLO_TIMELINE", "/a b/t.json"}, {"OMP_NUM_THREADS", "1"}}};
  EXPECT_EQ(to_shell_line(command),
            "KOLO_TIMELINE='/a b/t.json' OMP_NUM_THREADS=1 mpirun -np 2 './my train' '$x'");
}

}  // namespace
}  // namespace kolo::launch
