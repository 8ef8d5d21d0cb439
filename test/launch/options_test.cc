#include "launch/options.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "expect_usage_error.h"
#include "launch/option_table.h"

namespace kolo::launch {
namespace {

namespace fs = std::filesystem;
using Words = std::vector<std::string>;
using Hosts = std::vector<Host>;

/// A file that lives as long as the object.
class TemporaryFile {
 public:
  explicit TemporaryFile(const std::string& text) : path_(testing::TempDir() + "kolo_XXXXXX") {
    close(mkstemp(path_.data()));
    std::ofstream(path_) << text;
  }
  ~TemporaryFile() { fs::remove(path_); }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;

  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

TEST(Options, DefaultsStartOneRankHere) {
  const auto options = parse_options({"./train"});
  EXPECT_EQ(options.num_proc, 1);
  EXPECT_EQ(options.hosts, (Hosts{{"localhost", 1}}));
  EXPECT_EQ(options.command, Words{"./train"});
  EXPECT_FALSE(options.help || options.version || options.dry_run || options.verbose);
  EXPECT_FALSE(options.timeline_filename || options.fusion_threshold || options.log_level);
}

TEST(Options, NumProcInEverySpelling) {
  for (const Words& words : {Words{"-np", "3"}, Words{"-n", "3"}, Words{"-n3"}, Words{"--np", "3"},
                             Words{"--num-proc", "3"}, Words{"--num-proc=3"}}) {
    auto arguments = words;
    arguments.push_back("./train");
    const auto options = parse_options(arguments);
    EXPECT_EQ(options.num_proc, 3) << words[0];
    EXPECT_EQ(options.hosts, (Hosts{{"localhost", 3}})) << words[0];
    EXPECT_EQ(options.command, Words{"./train"}) << words[0];
  }
}

TEST(Options, HostsAndTheirSlots) {
  for (const Words& words : {Words{"-H", "a:2,b:2"}, Words{"--hosts", "a:2,b:2"},
                             Words{"--hosts=a:2,b:2"}, Words{"-Ha:2,b:2"}}) {
    auto arguments = words;
    arguments.push_back("./train");
    const auto options = parse_options(arguments);
    EXPECT_EQ(options.hosts, (Hosts{{"a", 2}, {"b", 2}})) << words[0];
    EXPECT_EQ(options.num_proc, 4) << words[0];
  }
  EXPECT_EQ(parse_options({"-np", "3", "-H", "a:2,b:2", "./train"}).num_proc, 3);
}

TEST(Options, Hostfile) {
  const TemporaryFile file("a slots=2\nb\n");
  const auto options = parse_options({"--hostfile", file.path(), "./train"});
  EXPECT_EQ(options.hosts, (Hosts{{"a", 2}, {"b", 1}}));
  EXPECT_EQ(options.num_proc, 3);
}

TEST(Options, KoloSettings) {
  const auto options =
      parse_options({"--timeline-filename", "x/../t.json", "--fusion-threshold", "64MiB",
                     "--log-level", "debug", "--verbose", "--dry-run", "./train"});
  EXPECT_EQ(options.timeline_filename, (fs::current_path() / "t.json").string());
  EXPECT_EQ(options.fusion_threshold, 64U << 20);
  EXPECT_EQ(options.log_level, "debug");
  EXPECT_TRUE(options.verbose);
  EXPECT_TRUE(options.dry_run);
  EXPECT_EQ(parse_options({"--timeline-filename=/a/t.json", "x"}).timeline_filename, "/a/t.json");
}

TEST(Options, TakesEveryLogLevel) {
  for (const auto* level : {"trace", "debug", "info", "warning", "error", "off"}) {
    EXPECT_EQ(parse_options({"--log-level", level, "./train"}).log_level, level);
  }
}

TEST(Options, TheCommandIsLeftUntouched) {
  const Words command{"./train", "-np", "8", "--help", "--", "", "a b", "--log-level=x", "-H"};
  Words arguments{"-np", "2"};
  arguments.insert(arguments.end(), command.begin(), command.end());
  EXPECT_EQ(parse_options(arguments).command, command);
  EXPECT_EQ(parse_options(arguments).num_proc, 2);
  arguments.insert(arguments.begin() + 2, "--");
  EXPECT_EQ(parse_options(arguments).command, command);
}

TEST(Options, AWordThatIsNamedLikeAnOptionIsItsValue) {
  const auto options = parse_options({"--timeline-filename", "hosts", "dry-run"});
  EXPECT_EQ(options.timeline_filename, (fs::current_path() / "hosts").string());
  EXPECT_EQ(options.command, Words{"dry-run"});
  EXPECT_FALSE(options.dry_run);
}

TEST(Options, OutputStartAndEnd) {
  const TemporaryFile key("");
  const auto options = parse_options(
      {"--tag-output", "--output-dir", "/o", "--network-interface", "eth0", "--ssh-port", "2222",
       "--ssh-identity", key.path(), "--start-timeout", "9", "--grace=0", "--bind", "numa",
       "--mpirun-args", "--mca a 'b c'", "-x", "A", "-xB=1", "-x", "C=", "./train"});
  EXPECT_TRUE(options.tag_output);
  EXPECT_EQ(options.output_dir, "/o");
  EXPECT_EQ(options.network_interface, "eth0");
  EXPECT_EQ(options.ssh_port, 2222);
  EXPECT_EQ(options.ssh_identity, key.path());
  EXPECT_EQ(options.start_timeout.count(), 9);
  EXPECT_EQ(options.grace.count(), 0);
  EXPECT_EQ(options.binding, Binding::Numa);
  EXPECT_EQ(options.mpirun_args, (Words{"--mca", "a", "b c"}));
  const std::map<std::string, std::optional<std::string>> exported{
      {"A", std::nullopt}, {"B", "1"}, {"C", ""}};
  EXPECT_EQ(options.exported, exported);
  EXPECT_EQ(parse_options({"./train"}).grace.count(), 30);
}

TEST(Options, AProgramMayLookLikeAnOption) {
  EXPECT_EQ(parse_options({"-np", "2", "--", "-x", "-y"}).command, (Words{"-x", "-y"}));
}

TEST(Options, HelpAndVersionNeedNothingElse) {
  EXPECT_TRUE(parse_options({"--help"}).help);
  EXPECT_TRUE(parse_options({"-h"}).help);
  EXPECT_TRUE(parse_options({"-np", "0", "--help"}).help);
  EXPECT_TRUE(parse_options({"--version"}).version);
}

TEST(Options, HelpNamesEveryOption) {
  for (const auto* word :
       {"-np", "--num-proc", "-H", "--hosts", "--hostfile", "--timeline-filename", "--log-level",
        "--fusion-threshold", "--config", "--dry-run", "--verbose", "--version", "--help",
        "--tag-output", "--output-dir", "--network-interface", "--ssh-port", "--ssh-identity",
        "--start-timeout", "--grace", "--bind", "--mpirun-args", "-x",
        "KOLO_MPIRUN", "KOLO_TIMELINE", "Examples:", "Exit code:"}) {
    EXPECT_NE(help_text().find(word), std::string::npos) << word;
  }
}

TEST(Config, FillsWhatTheCommandLineLeavesOpen) {
  const TemporaryFile file(
      "# a run\nnp = 3\nhosts = a:2,b:2\nlog-level = info\nfusion-threshold = 1M\n");
  const auto options = parse_options({"--config", file.path(), "--log-level", "off", "./train"});
  EXPECT_EQ(options.num_proc, 3);
  EXPECT_EQ(options.hosts, (Hosts{{"a", 2}, {"b", 2}}));
  EXPECT_EQ(options.fusion_threshold, 1U << 20);
  EXPECT_EQ(options.log_level, "off");
}

TEST(Config, HostsOfTheCommandLineReplaceAHostfile) {
  const TemporaryFile file("hostfile = /no/such/file\n");
  const auto options = parse_options({"--config", file.path(), "-H", "a:2", "./train"});
  EXPECT_EQ(options.hosts, (Hosts{{"a", 2}}));
}

TEST(Config, SaysWhatIsWrong) {
  const TemporaryFile unknown("nprocs = 3\n");
  expect_usage_error(
      [&] {
        parse_options({"--config", unknown.path(), "./train"});
      },
      {"config file '" + unknown.path(), "nprocs", "kolorun --help"});
  const TemporaryFile malformed("np 3\n");
  expect_usage_error(
      [&] {
        parse_options({"--config", malformed.path(), "./train"});
      },
      {"config file '" + malformed.path(), "np 3"});
  const TemporaryFile bad_value("np = many\n");
  expect_usage_error(
      [&] {
        parse_options({"--config", bad_value.path(), "./train"});
      },
      {"-np 'many'"});
  expect_usage_error(
      [] {
        parse_options({"--config", "/no/file", "./train"});
      },
      {"config file '/no/file' cannot be read: No such file or directory"});
}

TEST(Options, MistakesAreUsageErrors) {
  struct Mistake {
    Words arguments;
    Words message;
  };
  const std::vector<Mistake> mistakes{
      {{}, {"no program is given", "kolorun -np 2 ./train"}},
      {{"-np", "2"}, {"no program is given"}},
      {{"-np", "2", "--"}, {"no program is given"}},
      {{"--frob", "./train"}, {"'--frob'", "kolorun --help"}},
      {{"-z", "./train"}, {"'-z'", "kolorun --help"}},
      {{"--time", "t.json", "./train"}, {"'--time'"}},
      {{"-np"}, {"'--np' is missing", "kolorun --help"}},
      {{"-np", "0", "./train"}, {"-np '0'", "whole number from 1"}},
      {{"-np", "-3", "./train"}, {"-np '-3'", "whole number from 1"}},
      {{"-np", "two", "./train"}, {"-np 'two'", "for example -np 2"}},
      {{"-np", "./train"}, {"-np './train'"}},
      {{"-np", "2", "-np", "3", "./train"}, {"'--np'", "more than once"}},
      {{"-np", "5", "-H", "a:2,b:2", "./train"}, {"-np 5", "4 slots", "a:2,b:2"}},
      {{"-H", "a:x", "./train"}, {"-H 'a:x'"}},
      {{"-H", "a", "--hostfile", "f", "./train"}, {"both -H and --hostfile", "choose"}},
      {{"--hostfile", "/no/file", "./train"},
       {"hostfile '/no/file' cannot be read: No such file or directory"}},
      {{"--log-level", "loud", "./train"}, {"'loud'", "trace, debug, info"}},
      {{"--fusion-threshold", "lots", "./train"}, {"'lots' is not a size", "64MiB"}},
      {{"--timeline-filename", "", "./train"}, {"--timeline-filename is empty", "name a file"}},
      {{"--grace", "long", "./train"}, {"--grace 'long' is not a whole number of seconds"}},
      {{"--ssh-port", "70000", "./train"}, {"--ssh-port '70000'", "65535"}},
      {{"--ssh-identity", "/no/key", "./train"}, {"--ssh-identity '/no/key' cannot be read"}},
      {{"--bind", "socket", "./train"}, {"--bind 'socket' is none of none, core, numa"}},
      {{"--network-interface", "10.0.0.0/8", "./train"}, {"'10.0.0.0/8'", "ip link"}},
      {{"--mpirun-args", "a\\", "./train"}, {"--mpirun-args 'a\\'"}},
      {{"-x", "=1", "./train"}, {"-x '=1'", "NAME=VALUE"}}};
  for (const auto& [arguments, message] : mistakes) {
    SCOPED_TRACE(testing::PrintToString(arguments));
    expect_usage_error([&words = arguments] { parse_options(words); }, message);
  }
}

}  // namespace
}  // namespace kolo::launch
