#pragma once

/// Which images a rank works on.

#include <cstddef>
#include <cstdint>
#include <vector>

namespace resnet_example {

struct Shard {
  int rank = 0;
  int ranks = 1;
};

/// The rank's images of an epoch. All ranks shuffle alike, anew in every epoch, and take every
/// ranks-th image: the parts are disjoint and equally long, so every rank makes the same number of
/// steps with the same batch sizes (the last one may be smaller). The images that remain, fewer
/// than there are ranks, sit this epoch out.
std::vector<std::size_t> training_images(std::size_t images, Shard shard, std::uint64_t seed,
                                         int epoch);

/// The rank's slice of the test set, in order: together the ranks see every image once. Slices may
/// differ in length by one, and be empty.
std::vector<std::size_t> test_images(std::size_t images, Shard shard);

}  // namespace resnet_example
