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
                   "slot:PE=4", "--bind-to", "hwthread", "-x", "OMP_NUM_THREADS"}));
}

TEST(MpirunCommand, IsCompleteForOpenMpi5) {
  EXPECT_EQ(make_mpirun_command(ranks_here(2), machine(8, 5), true).arguments,
            (Words{"mpirun", "-np", "2", "-H", "localhost:2", "--map-by", "slot:PE=4:HWTCPUS",
                   "--bind-to", "hwthread", "-x", "OMP_NUM_THREADS"}));
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
  const auto none = make_mpirun_command(options, machine(2, 5), false).environment;
  EXPECT_FALSE(none.contains("OMP_NUM_THREADS"));

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

Words user_part(const Words& user_command, int open_mpi_major) {
  auto options = ranks_here(1);
  options.command = user_command;
  return make_mpirun_command(options, machine(1, open_mpi_major), true).program;
}

TEST(MpirunCommand, HidesFromMpirunWhatItWouldTakeForItsOwn) {
  const Words plain{"./train", "data", "it's"};
  const Words options{"./train", "--bind-to", "it's"};
  const Words colon{"./train", ":", "b c"};
  const Words dash{"-train", "x"};
  EXPECT_EQ(user_part(plain, 4), plain);
  EXPECT_EQ(user_part(plain, 5), plain);
  EXPECT_EQ(user_part(options, 4), options);
  EXPECT_EQ(user_part(options, 5), (Words{"/bin/sh", "-c", "exec ./train --bind-to 'it'\\''s'"}));
  EXPECT_EQ(user_part(colon, 4), (Words{"/bin/sh", "-c", "exec ./train : 'b c'"}));
  EXPECT_EQ(user_part(dash, 4), (Words{"/bin/sh", "-c", "exec env -- -train x"}));
}

TEST(MpirunCommand, HandsOverWhatIsNamedAndWhatLibrariesRead) {
  auto from = machine(1, 4);
  from.environment = {{"NCCL_DEBUG", "INFO"},      {"CUDA_VISIBLE_DEVICES", "0"}, {"UCX_TLS", "tcp"},
                      {"OMP_PLACES", "cores"},     {"MKL_NUM_THREADS", "1"},      {"TORCH_HOME", "/t"},
                      {"ATEN_CPU_CAPABILITY", "default"}, {"HOME", "/root"},      {"NCCLX", "no"}};
  auto options = ranks_here(1);
  options.exported = {{"A", std::nullopt}, {"B", "1=2"}, {"OMP_NUM_THREADS", "7"}};
  const auto command = make_mpirun_command(options, from, true);
  EXPECT_EQ(exported(command),
            (Words{"A", "ATEN_CPU_CAPABILITY", "B", "CUDA_VISIBLE_DEVICES", "MKL_NUM_THREADS",
                   "NCCL_DEBUG", "OMP_NUM_THREADS", "OMP_PLACES", "TORCH_HOME", "UCX_TLS"}));
  EXPECT_EQ(command.environment,
            (Environment{{"B", "1=2"}, {"OMP_NUM_THREADS", "7"}, {"PMIX_MCA_gds", "hash"}}));
}

TEST(MpirunCommand, BindsAsTold) {
  auto options = ranks_here(2);
  options.binding = Binding::None;
  EXPECT_EQ(placement(make_mpirun_command(options, machine(8, 4), true)),
            (Words{"--bind-to", "none"}));
  for (const bool all_here : {true, false}) {
    options.binding = Binding::Core;
    EXPECT_EQ(placement(make_mpirun_command(options, machine(8, 4), all_here)),
              (Words{"--map-by", "core", "--bind-to", "core"}));
    options.binding = Binding::Numa;
    EXPECT_EQ(placement(make_mpirun_command(options, machine(8, 5), all_here)),
              (Words{"--map-by", "numa", "--bind-to", "numa"}));
  }
}

TEST(MpirunCommand, ReachesOtherHosts) {
  auto options = ranks_here(2);
  options.hosts = {{"node1", 1}, {"node2", 1}};
  options.network_interface = "eth0";
  options.ssh_port = 2222;
  options.ssh_identity = "/key";
  auto added = make_mpirun_command(options, machine(1, 4), false).environment;
  EXPECT_EQ(added["OMPI_MCA_plm_rsh_args"], "-o BatchMode=yes -p 2222 -i /key");
  EXPECT_EQ(added["OMPI_MCA_btl_tcp_if_include"], "eth0");
  EXPECT_EQ(added["OMPI_MCA_oob_tcp_if_include"], "eth0");
  EXPECT_EQ(added["NCCL_SOCKET_IFNAME"], "=eth0");
  added = make_mpirun_command(options, machine(1, 5), false).environment;
  EXPECT_EQ(added["PRTE_MCA_plm_ssh_args"], "-o BatchMode=yes -p 2222 -i /key");
  EXPECT_EQ(added["PRTE_MCA_prte_if_include"], "eth0");
  EXPECT_EQ(remote_shell(options, machine(1, 4)),
            (Words{"ssh", "-o", "BatchMode=yes", "-p", "2222", "-i", "/key"}));
  auto agent = machine(1, 4);
  agent.environment["OMPI_MCA_plm_rsh_agent"] = "my shell : rsh";
  EXPECT_EQ(remote_shell(options, agent), (Words{"my", "shell"}));
  EXPECT_FALSE(make_mpirun_command(options, agent, false)
                   .environment.contains("OMPI_MCA_plm_rsh_args"));
}

TEST(MpirunCommand, LeftOverVariablesOfSlurmDoNotMatter) {
  auto from = machine(1, 4);
  EXPECT_FALSE(make_mpirun_command(ranks_here(1), from, true).environment.contains("OMPI_MCA_ras"));
  from.environment["SLURM_JOBID"] = "1";
  auto added = make_mpirun_command(ranks_here(1), from, true).environment;
  EXPECT_EQ(added["OMPI_MCA_ras"], "^slurm");
  EXPECT_EQ(added["OMPI_MCA_plm"], "^slurm");
  from.open_mpi_major = 5;
  added = make_mpirun_command(ranks_here(1), from, true).environment;
  EXPECT_EQ(added["PRTE_MCA_ras"], "^slurm");
}

TEST(Supervised, StartsKolorunBesideEachRank) {
  const auto options = ranks_here(2);
  const auto plain = make_mpirun_command(options, machine(2, 4), true);
  const auto command = supervised(plain, options, machine(2, 4), "/bin/kolorun", "/f");
  EXPECT_EQ(command.arguments, plain.arguments);
  EXPECT_EQ(command.program, (Words{"/bin/kolorun", "@rank", "/f", "./train"}));
  auto added = command.environment;
  EXPECT_EQ(added["OMPI_MCA_ess_base_forward_signals"], "50,51");
  EXPECT_EQ(added["OMPI_MCA_btl_vader_backing_directory"], "/f");
  EXPECT_EQ(added["OMPI_MCA_orte_local_tmpdir_base"], "/f");
  EXPECT_EQ(added["OMPI_MCA_opal_signal"], "");
}

TEST(Supervised, LeavesTheUsersParametersOfOpenMpi) {
  auto from = machine(2, 4);
  from.environment = {{"OMPI_MCA_opal_signal", "6"}, {"OMPI_MCA_orte_tmpdir_base", "/t"}};
  const auto options = ranks_here(2);
  const auto added =
      supervised(make_mpirun_command(options, from, true), options, from, "k", "/f").environment;
  EXPECT_FALSE(added.contains("OMPI_MCA_opal_signal"));
  EXPECT_FALSE(added.contains("OMPI_MCA_orte_local_tmpdir_base"));
}

TEST(Supervised, NamesIpv6HostsInAFile) {
  auto options = ranks_here(3);
  options.hosts = {{"node1", 1}, {"fe80::1", 2}};
  EXPECT_EQ(hostfile(options.hosts), "node1 slots=1\nfe80::1 slots=2\n");
  auto command = make_mpirun_command(options, machine(2, 4), false);
  EXPECT_EQ(command.arguments[4], "node1:1,[fe80::1]:2");
  command = supervised(command, options, machine(2, 4), "k", "/f");
  EXPECT_EQ(command.arguments[3], "--hostfile");
  EXPECT_EQ(command.arguments[4], "/f/hosts");
  EXPECT_EQ(command.environment["OMPI_MCA_regx"], "naive");
  EXPECT_EQ(hostfile({{"node1", 1}}), "");
}

TEST(ShellLine, SetsTheEnvironmentAndQuotes) {
  const MpirunCommand command{{"mpirun", "-np", "2"},
                              {"./my train", "$x"},
                              {{"KOLO_TIMELINE", "/a b/t.json"}, {"OMP_NUM_THREADS", "1"}}};
  EXPECT_EQ(to_shell_line(command),
            "KOLO_TIMELINE='/a b/t.json' OMP_NUM_THREADS=1 mpirun -np 2 './my train' '$x'");
}

}  // namespace
}  // namespace kolo::launch
