#pragma once

/// Which parts of an arena are in use: arithmetic only, no memory is touched.

#include <cstddef>
#include <map>
#include <optional>

namespace kolo::core::shm {

/// First fit, in whole pages.
class Heap {
 public:
  static constexpr std::size_t kPage = 4096;
  static std::size_t round_up(std::size_t bytes) { return (bytes + kPage - 1) / kPage * kPage; }

  /// Of offsets from `begin` to before `end`, both multiples of a page.
  Heap(std::size_t begin, std::size_t end) { free_.emplace(begin, end - begin); }

  /// The offset of a new block, or nothing when none is large enough.
  std::optional<std::size_t> take(std::size_t bytes);

  /// `bytes` as they were taken.
  void give_back(std::size_t offset, std::size_t bytes);

 private:
  /// Bytes by offset; neighbours are merged.
  std::map<std::size_t, std::size_t> free_;
};

}  // namespace kolo::core::shm
