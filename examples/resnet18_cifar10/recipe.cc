#include "recipe.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <sstream>
#include <vector>

namespace resnet_example {
namespace {

std::vector<std::string> split_lines(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

}  // namespace

std::string training_recipe(const Options& o, const Dataset& dataset, int ranks) {
  return fmt::format(
      "ranks = {}\ndata set = {}\ntraining images = {}\ntest images = {}\nbatch-size = {}\nlr = "
      "{}\n"
      "lr-scaling = {}\nlr-milestones = {}\nlr-gamma = {}\nwarmup-epochs = {}\nmomentum = {}\n"
      "weight-decay = {}\namp = {}\nseed = {}\naugment = {}\n",
      ranks, dataset.name, dataset.train.size(), dataset.test.size(), o.batch_size, o.lr,
      name_of(o.lr_scaling), fmt::join(o.lr_milestones, ","), o.lr_gamma, o.warmup_epochs,
      o.momentum, o.weight_decay, name_of(o.amp), o.seed, o.augment);
}

std::string differing_lines(const std::string& a, const std::string& name_of_a,
                            const std::string& b, const std::string& name_of_b) {
  std::vector<std::string> in_a = split_lines(a);
  std::vector<std::string> in_b = split_lines(b);
  const std::size_t lines = std::max(in_a.size(), in_b.size());
  in_a.resize(lines);
  in_b.resize(lines);
  std::vector<std::string> differences;
  for (std::size_t i = 0; i < lines; ++i) {
    if (in_a[i] == in_b[i]) continue;
    differences.push_back(fmt::format("{} ({})", in_a[i], name_of_a));
    differences.push_back(fmt::format("{} ({})", in_b[i], name_of_b));
  }
  return fmt::format("{}", fmt::join(differences, ", "));
}

}  // namespace resnet_example
