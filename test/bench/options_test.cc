#include "bench/options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace kolo::bench {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

Options parse(std::vector<const char*> words) {
  words.insert(words.begin(), "kolo-bench");
  return parse_options(static_cast<int>(words.size()), words.data());
}

void expect_usage_error(const std::vector<const char*>& words,
                        const std::vector<const char*>& parts) {
  try {
    parse(words);
    ADD_FAILURE() << "no error; expected one with '" << parts.front() << "'";
  } catch (const UsageError& error) {
    for (const char* part : parts) EXPECT_THAT(error.what(), HasSubstr(part));
  }
}

TEST(BenchOptions, Defaults) {
  const Options options = parse({"allreduce"});
  EXPECT_EQ(options.subcommand, Subcommand::Allreduce);
  EXPECT_EQ(options.sizes.size(), 13U);
  EXPECT_EQ(options.sizes.front(), 4);
  EXPECT_EQ(options.sizes.back(), 64 << 20);
  EXPECT_THAT(options.dtypes, ElementsAre(Dtype::Float32));
  EXPECT_THAT(options.memories, ElementsAre(Memory::Kolo, Memory::Private));
  EXPECT_THAT(options.against, IsEmpty());
  EXPECT_THAT(parse({"step"}).models,
              ElementsAre(ModelName::ResNet18, ModelName::ResNet50, ModelName::Small));
  EXPECT_THAT(parse({"step"}).zero_grads, ElementsAre(ZeroGrad::Zero));
  EXPECT_EQ(parse({"negotiate"}).names, 62);
  EXPECT_EQ(parse({"idle"}).window, 5);
}

TEST(BenchOptions, Allreduce) {
  const Options options = parse({"allreduce", "--sizes", "4,1KiB,2M", "--dtypes", "int32,float64",
                                 "--memory", "private", "--seconds", "0.5", "--against",
                                 "mpi,mpi-chunked,ddp", "--json", "a.json", "--plot", "a.svg"});
  EXPECT_THAT(options.sizes, ElementsAre(4, 1024, 2 << 20));
  EXPECT_THAT(options.dtypes, ElementsAre(Dtype::Int32, Dtype::Float64));
  EXPECT_THAT(options.memories, ElementsAre(Memory::Private));
  EXPECT_EQ(options.seconds, 0.5);
  EXPECT_THAT(contenders(options),
              ElementsAre(Contender::Kolo, Contender::Mpi, Contender::MpiChunked, Contender::Ddp));
  EXPECT_EQ(options.json, "a.json");
  EXPECT_EQ(options.plot, "a.svg");
}

TEST(BenchOptions, Step) {
  const Options options = parse({"step", "--models", "small", "--compute", "5,10.5,1",
                                 "--compute-as", "sleep", "--against", "ddp-view", "--zero-grad",
                                 "none,zero"});
  EXPECT_THAT(options.zero_grads, ElementsAre(ZeroGrad::None, ZeroGrad::Zero));
  EXPECT_THAT(options.models, ElementsAre(ModelName::Small));
  EXPECT_DOUBLE_EQ(options.compute.forward.count(), 5e-3);
  EXPECT_DOUBLE_EQ(options.compute.backward.count(), 10.5e-3);
  EXPECT_DOUBLE_EQ(options.compute.optimizer.count(), 1e-3);
  EXPECT_EQ(options.compute_as, ComputeAs::Sleep);
}

TEST(BenchOptions, Train) {
  const Options defaults = parse({"train"});
  EXPECT_EQ(defaults.batch_size, 32);
  EXPECT_EQ(defaults.steps, 1);
  EXPECT_EQ(defaults.threads, 1);
  EXPECT_EQ(defaults.seconds, 120);
  EXPECT_EQ(parse({"step"}).seconds, 2);
  const Options options = parse({"train", "--batch-size", "4", "--steps", "3", "--threads", "2",
                                 "--seconds", "0.5", "--against", "mpi,ddp-view"});
  EXPECT_EQ(options.batch_size, 4);
  EXPECT_EQ(options.steps, 3);
  EXPECT_EQ(options.threads, 2);
  EXPECT_EQ(options.seconds, 0.5);
  EXPECT_THAT(contenders(options),
              ElementsAre(Contender::Kolo, Contender::Mpi, Contender::DdpView));
}

TEST(BenchOptions, NegotiateAndIdle) {
  EXPECT_THAT(parse({"negotiate", "--ranks", "2,32"}).set_sizes, ElementsAre(2, 32));
  EXPECT_EQ(parse({"negotiate", "--names", "7"}).names, 7);
  EXPECT_EQ(parse({"idle", "--window", "0.25"}).window, 0.25);
}

TEST(BenchOptions, WrongSubcommands) {
  expect_usage_error({}, {"no subcommand is given"});
  expect_usage_error({"--seconds", "1"}, {"no subcommand is given"});
  expect_usage_error({"reduce"},
                     {"'reduce'", "expected one of allreduce, step, train, negotiate, idle"});
}

TEST(BenchOptions, WrongValues) {
  expect_usage_error({"allreduce", "--sizes", "4,big"}, {"--sizes", "'big'", "64KiB"});
  expect_usage_error({"allreduce", "--sizes", "3"}, {"--sizes", "'3'"});
  expect_usage_error({"allreduce", "--dtypes", "int7"}, {"--dtypes", "'int7'", "bfloat16"});
  expect_usage_error({"allreduce", "--memory", "gpu"}, {"--memory", "'gpu'", "kolo, private"});
  expect_usage_error({"allreduce", "--seconds", "0"}, {"--seconds is 0", "above 0"});
  expect_usage_error({"allreduce", "--seconds", "x"}, {"seconds", "x"});
  expect_usage_error({"step", "--models", "vgg"}, {"--models", "'vgg'", "resnet18"});
  expect_usage_error({"step", "--zero-grad", "zero,no"}, {"--zero-grad", "'no'", "zero, none"});
  expect_usage_error({"step", "--compute", "1,2"}, {"--compute is '1,2'", "5,10,1"});
  expect_usage_error({"step", "--compute", "1,2,-3"}, {"--compute"});
  expect_usage_error({"step", "--compute", "1,2,3,4"}, {"--compute"});
  expect_usage_error({"step", "--compute-as", "play"}, {"--compute-as", "'play'", "sleep, work"});
  expect_usage_error({"train", "--batch-size", "0"}, {"--batch-size is 0", "1 to 65536"});
  expect_usage_error({"train", "--steps", "0"}, {"--steps is 0", "1 to 100000"});
  expect_usage_error({"train", "--threads", "-1"}, {"--threads is -1", "1 to 4096"});
  expect_usage_error({"negotiate", "--ranks", "two"}, {"--ranks", "'two'"});
  expect_usage_error({"negotiate", "--names", "0"}, {"--names is 0"});
  expect_usage_error({"idle", "--window", "-1"}, {"--window is -1"});
}

TEST(BenchOptions, EmptyLists) {
  for (const char* option : {"--sizes", "--dtypes", "--memory"}) {
    expect_usage_error({"allreduce", option, ""}, {option, "is empty: expected at least one"});
  }
  for (const char* option : {"--models", "--zero-grad"}) {
    expect_usage_error({"step", option, ""}, {option, "is empty: expected at least one"});
  }
  EXPECT_THAT(parse({"step", "--against", ""}).against, IsEmpty());
  EXPECT_THAT(parse({"negotiate", "--ranks", ""}).set_sizes, IsEmpty());
  EXPECT_TRUE(parse({"step", "--models", "", "--help"}).help);
}

TEST(BenchOptions, OptionsOfOtherSubcommands) {
  expect_usage_error({"step", "--sizes", "4"}, {"sizes"});
  expect_usage_error({"negotiate", "--sizes", "4"}, {"sizes"});
  expect_usage_error({"step", "--batch-size", "4"}, {"batch-size"});
}

TEST(BenchOptions, ComparisonsThatMakeNoSense) {
  expect_usage_error({"step", "--against", "horovod"}, {"--against", "'horovod'", "mpi-chunked"});
  expect_usage_error({"step", "--against", "kolo"}, {"always measured"});
  expect_usage_error({"allreduce", "--against", "ddp-view"}, {"step and train only"});
  expect_usage_error({"negotiate", "--against", "mpi,ddp"}, {"negotiate --against ddp", "mpi"});
  expect_usage_error({"allreduce", "--against", "mpi", "--dtypes", "float32,float16"},
                     {"--against mpi", "MPI has no float16"});
  expect_usage_error({"allreduce", "--against", "ddp", "--dtypes", "bfloat16"},
                     {"Gloo has no bfloat16"});
}

TEST(BenchOptions, Plots) {
  expect_usage_error({"step", "--plot", "a.png"}, {"--plot", "add --json"});
  expect_usage_error({"step", "--json", "a", "--plot", "a.gif"}, {"--plot is a.gif", ".svg"});
}

TEST(BenchOptions, HelpTellsAllOptions) {
  EXPECT_TRUE(parse({"--help"}).help);
  EXPECT_THAT(help_text(Subcommand::None), HasSubstr("kolorun -np 2 kolo-bench allreduce"));
  EXPECT_TRUE(parse({"step", "--help"}).help);
  EXPECT_THAT(help_text(Subcommand::Step), HasSubstr("--compute FWD,BWD,OPT"));
  EXPECT_THAT(help_text(Subcommand::Step), HasSubstr("--zero-grad LIST (=zero)"));
  EXPECT_THAT(help_text(Subcommand::Train), HasSubstr("--batch-size N (=32)"));
  EXPECT_THAT(help_text(Subcommand::Train), HasSubstr("--seconds S (=120)"));
}

}  // namespace
}  // namespace kolo::bench
