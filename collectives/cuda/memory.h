#pragma once

/// Memory of a GPU that NCCL can work on without copies.

#include <cstddef>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

namespace kolo::core::cuda {

/// Blocks of one GPU's memory. Communicators may know a block, and only who works with these can
/// make them forget it: so a block that nobody uses any more is kept until that thread takes it.
/// Thread-safe.
class Memory : public std::enable_shared_from_this<Memory> {
 public:
  struct Block {
    std::byte* begin = nullptr;
    std::size_t bytes = 0;
  };

  static std::shared_ptr<Memory> of_device(int device);
  /// Frees what was released and not taken.
  ~Memory();

  /// Null when there is not enough. Who lets go of it has seen to it that the GPU is done with it.
  /// It keeps this object alive.
  std::shared_ptr<std::byte> allocate(std::size_t bytes);

  /// The block that an address lies in.
  std::optional<Block> find(const void* address);

  /// The blocks that were let go of since the last call, to be given to free().
  std::vector<Block> take_released();
  void free(const Block& block) const;

 private:
  explicit Memory(int device) : device_(device) {}
  void release(std::byte* begin);

  const int device_;
  std::mutex mutex_;
  std::map<std::byte*, Block> blocks_;  // guarded by mutex_
  std::vector<Block> released_;         // guarded by mutex_
};

}  // namespace kolo::core::cuda
