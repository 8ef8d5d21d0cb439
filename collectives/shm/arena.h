#pragma once

/// A rank's memory that all ranks of its host can map.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>

#include "base/status.h"
#include "shm/descriptor.h"
#include "shm/heap.h"
#include "shm/private_in_children.h"

namespace kolo::core::shm {

/// Owns a mapping of a shared file, which may yet grow. It is in no core dump, whose size would be that of
/// the mapping, and, unless somebody makes it so (PrivateInChildren), not in children of fork() either.
class Mapping {
 public:
  /// At a multiple of 256 MiB, so that what counts for the caches is the offset alone.
  static Result<Mapping> map(const Descriptor& file, std::size_t bytes);
  ~Mapping();
  Mapping(Mapping&& other) noexcept;
  Mapping& operator=(Mapping&&) = delete;

  std::byte* begin() const { return begin_; }
  std::size_t bytes() const { return bytes_; }

 private:
  Mapping(std::byte* begin, std::size_t bytes) : begin_(begin), bytes_(bytes) {}

  std::byte* begin_;
  std::size_t bytes_;
};

/// One memfd, mapped as large as it may become: it grows with what is in use, and only that has pages.
/// Nameless, so that nothing has to be removed and it is gone with the last process that maps it. Begins
/// with a reserved part, all zeros; the rest is a heap.
class Arena : public std::enable_shared_from_this<Arena> {
 public:
  struct Layout {
    std::size_t capacity = 0;
    std::size_t reserved = 0;
    /// Where the heap begins beyond that. Blocks of two arenas whose addresses differ by a multiple
    /// of 256 MiB share places in the first cache of some processors, and are then two to three
    /// times slower to work on at once; so each rank's heap begins a page further.
    std::size_t skew = 0;
  };
  static Result<std::shared_ptr<Arena>> create(const Layout& layout);

  const Descriptor& file() const { return file_; }
  const std::shared_ptr<const Mapping>& mapping() const { return mapping_; }

  /// Memory at a multiple of a page, with its pages; null when there is no more. It keeps the
  /// arena, and its pages go back to the system with the last owner, unless that is in a child of fork().
  /// Thread-safe.
  std::shared_ptr<std::byte> allocate(std::size_t bytes);

  /// Where in the arena this memory is, if it is. Thread-safe.
  std::optional<std::uint64_t> offset_of(const void* memory, std::size_t bytes) const;

  /// From now on memory that is given back is not used again: a peer may still write to it.
  /// Thread-safe.
  void retire();

 private:
  Arena(Descriptor file, Mapping mapping, const Layout& layout);
  void give_back(std::size_t offset, std::size_t bytes);

  const Descriptor file_;
  const std::shared_ptr<const Mapping> mapping_;
  const PrivateInChildren private_in_children_;
  std::mutex mutex_;
  Heap heap_;             // guarded by mutex_
  bool retired_ = false;  // guarded by mutex_
};

}  // namespace kolo::core::shm
