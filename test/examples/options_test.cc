#include "options.h"

#include <gtest/gtest.h>

#include <iterator>
#include <sstream>

#include "dataset.h"
#include "recipe.h"
#include "schedule.h"
#include "temp_folder.h"

namespace resnet_example {
namespace {

using testing::expect_error;
using testing::TempFolder;
using testing::write_text;

Options parse(const std::vector<std::string>& arguments) {
  std::vector<const char*> argv = {"resnet18_cifar10"};
  for (const std::string& argument : arguments) argv.push_back(argument.c_str());
  return parse_options(static_cast<int>(argv.size()), argv.data());
}

Options parse_words(const std::string& line) {
  std::istringstream stream(line);
  return parse({std::istream_iterator<std::string>(stream), {}});
}

template <class... Parts>
void expect_usage_error(const std::vector<std::string>& arguments, const Parts&... parts) {
  EXPECT_THROW(parse(arguments), UsageError);
  expect_error([&] { parse(arguments); }, parts...);
}

TEST(ParseOptions, DefaultsAreTheStudys) {
  const Options o = parse({});
  EXPECT_EQ(o.dataset, DatasetChoice::Auto);
  EXPECT_EQ(o.epochs, 5);
  EXPECT_EQ(o.batch_size, 128);
  EXPECT_EQ(o.lr, 0.1);
  EXPECT_EQ(o.lr_scaling, LrScaling::Sqrt);
  EXPECT_EQ(o.lr_milestones, (std::vector<int>{30, 60, 90}));
  EXPECT_EQ(o.lr_gamma, 0.1);
  EXPECT_EQ(o.momentum, 0.9);
  EXPECT_EQ(o.weight_decay, 5e-4);
  EXPECT_EQ(o.workers, 2);
  EXPECT_EQ(o.amp, Amp::Off);
  EXPECT_TRUE(o.augment);
  EXPECT_FALSE(o.resume);
}

TEST(ParseOptions, TakesValues) {
  const Options o = parse_words(
      "--dataset cifar10 --data-dir=there --epochs 7 --lr 0.5 --lr-scaling linear --lr-milestones "
      "1,20 --no-augment --seed 9 --checkpoint-dir c --resume --limit-train 64");
  EXPECT_EQ(o.dataset, DatasetChoice::Cifar10);
  EXPECT_EQ(o.data_dir, "there");
  EXPECT_EQ(o.epochs, 7);
  EXPECT_EQ(o.lr, 0.5);
  EXPECT_EQ(o.lr_scaling, LrScaling::Linear);
  EXPECT_EQ(o.lr_milestones, (std::vector<int>{1, 20}));
  EXPECT_FALSE(o.augment);
  EXPECT_EQ(o.seed, 9U);
  EXPECT_TRUE(o.resume);
  EXPECT_EQ(o.limit_train, 64);
  EXPECT_TRUE(parse({"--lr-milestones", "none"}).lr_milestones.empty());
  EXPECT_TRUE(parse({"--augment"}).augment);
}

TEST(ParseOptions, ReadsConfigAndTheCommandLineWins) {
  const TempFolder folder;
  const auto path = folder / "run.cfg";
  write_text(path, "# a study\nepochs = 100\nlr = 0.2\naugment = false\nlr-milestones = 50\n");
  const Options o = parse({"--config", path.string(), "--lr", "0.4", "--augment"});
  EXPECT_EQ(o.epochs, 100);
  EXPECT_EQ(o.lr, 0.4);
  EXPECT_TRUE(o.augment);
  EXPECT_EQ(o.lr_milestones, (std::vector<int>{50}));
  EXPECT_FALSE(parse({"--config", path.string()}).augment);
}

TEST(ParseOptions, ExplainsMistakes) {
  expect_usage_error({"--epoch", "3"}, "--epoch");
  expect_usage_error({"--epochs"}, "--epochs");
  expect_usage_error({"--epochs", "3", "--epochs", "4"}, "--epochs");
  expect_usage_error({"--epochs", "three"}, "three", "--epochs");
  expect_usage_error({"--epochs", "0"}, "--epochs is 0", "expected 1 or more");
  expect_usage_error({"--batch-size", "-1"}, "--batch-size is -1", "expected 1 or more");
  expect_usage_error({"--lr", "0"}, "--lr is 0", "above 0");
  expect_usage_error({"--lr", "nan"}, "--lr");
  expect_usage_error({"--momentum", "1"}, "--momentum is 1", "[0, 1)");
  expect_usage_error({"--lr-gamma", "2"}, "--lr-gamma is 2");
  expect_usage_error({"--weight-decay", "-1"}, "--weight-decay");
  expect_usage_error({"--workers", "-1"}, "--workers is -1");
  expect_usage_error({"--threads", "-1"}, "--threads is -1");
  expect_usage_error({"--log-every", "0"}, "--log-every is 0");
  expect_usage_error({"--limit-train", "-5"}, "--limit-train is -5");
  expect_usage_error({"--seed", "-5"}, "--seed is -5");
  expect_usage_error({"--dataset", "mnist"}, "'mnist'", "auto, cifar10, fashion-mnist");
  expect_usage_error({"--amp", "fp8"}, "'fp8'", "off, bf16, fp16");
  expect_usage_error({"--lr-scaling", "root"}, "'root'", "none, sqrt, linear");
  expect_usage_error({"--lr-milestones", "30,20"}, "'30,20'", "ascending");
  expect_usage_error({"--lr-milestones", "3x"}, "'3x'");
  expect_usage_error({"--lr-milestones", "0"}, "'0'");
  expect_usage_error({"--augment=perhaps"}, "perhaps");
  expect_usage_error({"extra"}, "positional");
  expect_usage_error({"--resume"}, "--resume needs --checkpoint-dir");
  expect_usage_error({"--download", "--dataset", "fashion-mnist"}, "--download", "CIFAR-10");
}

TEST(ParseOptions, ExplainsMistakesInTheConfig) {
  const TempFolder folder;
  const auto path = folder / "run.cfg";
  expect_usage_error({"--config", path.string()}, path.string(), "cannot be read");
  expect_usage_error({"--config", folder.path().string()}, "cannot be read");
  write_text(path, "epoch = 5\n");
  expect_usage_error({"--config", path.string()}, path.string(), "epoch");
  write_text(path, "epochs 5\n");
  expect_usage_error({"--config", path.string()}, path.string(), "epochs 5");
  write_text(path, "epochs = many\n");
  expect_usage_error({"--config", path.string()}, "many");
}

TEST(Help, NamesEveryOptionAndFitsTheScreen) {
  const std::string help = help_text();
  for (const char* option :
       {"--dataset",        "--data-dir",      "--download",  "--limit-train",   "--limit-test",
        "--no-augment",     "--workers",       "--epochs",    "--batch-size",    "--lr ",
        "--lr-scaling",     "--lr-milestones", "--lr-gamma",  "--warmup-epochs", "--momentum",
        "--weight-decay",   "--amp",           "--seed",      "--threads",       "--history",
        "--checkpoint-dir", "--resume",        "--log-every", "--config",        "kolorun -np 2"}) {
    EXPECT_NE(help.find(option), std::string::npos) << option;
  }
  std::istringstream lines(help);
  for (std::string line; std::getline(lines, line);) EXPECT_LE(line.size(), 100U) << line;
}

TEST(ParseOptions, KnowsThreePrecisions) {
  for (const Amp amp : {Amp::Off, Amp::BFloat16, Amp::Float16}) {
    EXPECT_EQ(parse({"--amp", name_of(amp)}).amp, amp);
  }
}

TEST(LearningRate, GrowsWithTheRanks) {
  Options o;
  EXPECT_DOUBLE_EQ(learning_rate(o, 4, 0, 0, 10), 0.2);
  o.lr_scaling = LrScaling::Linear;
  EXPECT_DOUBLE_EQ(learning_rate(o, 4, 0, 0, 10), 0.4);
  o.lr_scaling = LrScaling::None;
  EXPECT_DOUBLE_EQ(learning_rate(o, 4, 0, 0, 10), 0.1);
}

TEST(LearningRate, FallsAtMilestones) {
  const Options o;
  EXPECT_DOUBLE_EQ(learning_rate(o, 1, 29, 9, 10), 0.1);
  EXPECT_DOUBLE_EQ(learning_rate(o, 1, 30, 0, 10), 0.01);
  EXPECT_DOUBLE_EQ(learning_rate(o, 1, 60, 0, 10), 0.001);
  EXPECT_DOUBLE_EQ(learning_rate(o, 1, 95, 0, 10), 0.0001);
}

TEST(LearningRate, RisesStepByStepInTheWarmUp) {
  const Options o{.warmup_epochs = 2};
  EXPECT_DOUBLE_EQ(learning_rate(o, 1, 0, 0, 10), 0.1 / 20);
  EXPECT_DOUBLE_EQ(learning_rate(o, 1, 1, 0, 10), 0.1 * 11 / 20);
  EXPECT_DOUBLE_EQ(learning_rate(o, 1, 1, 9, 10), 0.1);
  EXPECT_DOUBLE_EQ(learning_rate(o, 1, 2, 0, 10), 0.1);
}

TEST(Recipe, TellsWhatDiffers) {
  const Dataset data{.name = "CIFAR-10", .mean = {}, .std = {}};
  Options other;
  other.lr = 0.25;
  other.epochs = 50;
  other.workers = 7;
  const std::string a = training_recipe({}, data, 2);
  const std::string b = training_recipe(other, data, 4);
  EXPECT_EQ(differing_lines(a, "there", b, "now"),
            "ranks = 2 (there), ranks = 4 (now), lr = 0.1 (there), lr = 0.25 (now)");
  EXPECT_EQ(differing_lines(a, "there", a, "now"), "");
}

}  // namespace
}  // namespace resnet_example
