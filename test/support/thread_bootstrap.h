#pragma once

/// A host's ranks as threads of this process.

#include <condition_variable>
#include <mutex>
#include <span>
#include <vector>

#include "shm/bootstrap.h"

namespace kolo::testing {

/// Where the threads meet.
class Meeting {
 public:
  using Bytes = std::vector<std::byte>;

  explicit Meeting(int size) : given_(static_cast<std::size_t>(size)) {}

  int size() const { return static_cast<int>(given_.size()); }

  std::vector<Bytes> all_gather(int rank, std::span<const std::byte> own) {
    std::unique_lock lock(mutex_);
    const int round = round_;
    given_[static_cast<std::size_t>(rank)].assign(own.begin(), own.end());
    if (++arrived_ == size()) {
      gathered_ = given_;
      arrived_ = 0;
      ++round_;
      condition_.notify_all();
    }
    // The next round cannot end before all have left this one.
    condition_.wait(lock, [&] { return round_ != round; });
    return gathered_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable condition_;
  std::vector<Bytes> given_;
  std::vector<Bytes> gathered_;
  int arrived_ = 0;
  int round_ = 0;
};

class ThreadBootstrap final : public core::shm::Bootstrap {
 public:
  /// `same_process`: whether the threads may hand each other what they have mapped, so that
  /// ThreadSanitizer sees that they share it; or do as processes do.
  ThreadBootstrap(Meeting& meeting, int rank, bool same_process = true)
      : meeting_(meeting), rank_(rank), same_process_(same_process) {}

  int rank() const override { return rank_; }
  int size() const override { return meeting_.size(); }
  core::Result<std::vector<std::vector<std::byte>>> all_gather(
      std::span<const std::byte> own) override {
    return meeting_.all_gather(rank_, own);
  }
  bool same_process() const override { return same_process_; }

 private:
  Meeting& meeting_;
  const int rank_;
  const bool same_process_;
};

}  // namespace kolo::testing
