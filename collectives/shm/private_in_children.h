#pragma once

/// What a child of fork() finds where its parent has memory that the ranks share.

#include <cstddef>

namespace kolo::core::shm {

/// As long as this lives, children have the mapped file as a private copy, made page by page when
/// they write. They read what the parent has at that time, and can change nothing for it and its
/// peers. fork() copies nothing.
class PrivateInChildren {
 public:
  /// `file`, a descriptor that stays open, is mapped at `begin`. Without this children would not
  /// have it (Mapping).
  PrivateInChildren(std::byte* begin, std::size_t bytes, int file);
  ~PrivateInChildren();
  PrivateInChildren(const PrivateInChildren&) = delete;
  PrivateInChildren& operator=(const PrivateInChildren&) = delete;

 private:
  std::byte* const begin_;
};

}  // namespace kolo::core::shm
