#pragma once

#include <cstdint>
#include <vector>

namespace kolo {

/// A group of ranks that runs collectives of its own, in an order independent of other sets.
/// The default-constructed one holds all ranks. A value: copy it freely.
class ProcessSet {
 public:
  ProcessSet() = default;

  std::uint32_t id() const { return id_; }

 private:
  friend ProcessSet add_process_set(const std::vector<int>& ranks);
  explicit ProcessSet(std::uint32_t id) : id_(id) {}

  std::uint32_t id_ = 0;
};

/// Creates a set from distinct global ranks in ascending order. Collective over *all* ranks, with
/// the same list on each; only members may use the set afterwards. There may be 511 in a program's
/// life, from kolo::init() to kolo::shutdown(), besides the one of all ranks: make them once, and
/// keep them.
///
/// @throws kolo::Error on every rank when the lists differ, or when a list is empty, unsorted or
///         names a rank that does not exist, or there are 511 already.
ProcessSet add_process_set(const std::vector<int>& ranks);

}  // namespace kolo
