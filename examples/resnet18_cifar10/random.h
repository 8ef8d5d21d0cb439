#pragma once

#include <cstdint>
#include <initializer_list>

namespace resnet_example {

/// SplitMix64, started from a few keys such as (seed, epoch, image). The same numbers with every
/// compiler and library, and cheap enough to start anew for each image: so what happens to an image
/// depends neither on the thread nor on the rank that prepares it.
class Random {
 public:
  Random(std::initializer_list<std::uint64_t> keys) {
    for (const std::uint64_t key : keys) state_ = next() ^ key;
  }

  std::uint64_t next() {
    state_ += 0x9e3779b97f4a7c15U;
    std::uint64_t z = state_;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9U;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebU;
    return z ^ (z >> 31);
  }

  /// 0 … bound-1. The bias is below bound / 2^64.
  std::uint64_t below(std::uint64_t bound) { return next() % bound; }

 private:
  std::uint64_t state_ = 0;
};

}  // namespace resnet_example
