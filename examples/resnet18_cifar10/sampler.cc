#include "sampler.h"

#include <numeric>
#include <utility>

#include "random.h"

namespace resnet_example {

std::vector<std::size_t> training_images(std::size_t images, Shard shard, std::uint64_t seed,
                                         int epoch) {
  std::vector<std::size_t> order(images);
  std::iota(order.begin(), order.end(), std::size_t{0});
  Random random({seed, static_cast<std::uint64_t>(epoch)});
  for (std::size_t i = images; i > 1; --i) std::swap(order[i - 1], order[random.below(i)]);

  const auto ranks = static_cast<std::size_t>(shard.ranks);
  const std::size_t each = images / ranks;
  std::vector<std::size_t> mine(each);
  for (std::size_t i = 0; i < each; ++i) {
    mine[i] = order[i * ranks + static_cast<std::size_t>(shard.rank)];
  }
  return mine;
}

std::vector<std::size_t> test_images(std::size_t images, Shard shard) {
  const auto rank = static_cast<std::size_t>(shard.rank);
  const auto ranks = static_cast<std::size_t>(shard.ranks);
  const std::size_t first = images * rank / ranks;
  const std::size_t end = images * (rank + 1) / ranks;
  std::vector<std::size_t> mine(end - first);
  std::iota(mine.begin(), mine.end(), first);
  return mine;
}

}  // namespace resnet_example
