#pragma once

/// Memory of a GPU that NCCL can work on without copies.

#include <cstddef>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>

#include "base/status.h"

namespace kolo::core::cuda {

/// Blocks of one GPU's memory. Communicators may know a block, and only who works with these can
/// make them forget it: so a block that nobody uses any more is kept until that thread frees it.
/// Thread-safe.
class Memory : public std::enable_shared_from_this<Memory> {
 public:
  struct Block {
    std::byte* begin = nullptr;
    std::size_t bytes = 0;
  };

  static std::shared_ptr<Memory> of_device(int device);
  ~Memory();

  /// Who lets go of it has seen to it that the GPU is done with it. It keeps this object alive.
  Result<std::shared_ptr<std::byte>> allocate(std::size_t bytes);

  /// The block that an address lies in.
  std::optional<Block> find(const void* address);

  /// Frees the blocks that were let go of and that `forget` says nobody knows any more; asks for
  /// the others again next time.
  void free_released(const std::function<bool(const Block&)>& forget);

 private:
  using Blocks = std::map<std::byte*, Block>;

  explicit Memory(int device) : device_(device) {}
  void release(std::byte* begin) noexcept;

  const int device_;
  std::mutex mutex_;
  Blocks blocks_;    // guarded by mutex_
  Blocks released_;  // guarded by mutex_
};

}  // namespace kolo::core::cuda
