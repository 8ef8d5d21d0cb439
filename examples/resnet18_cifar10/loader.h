#pragma once

/// Prepares batches ahead of the training thread.

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <mutex>
#include <stop_token>
#include <thread>
#include <vector>

#include "augment.h"
#include "dataset.h"

namespace resnet_example {

struct Batch {
  std::vector<float> images;  ///< size() × channels × 32 × 32
  std::vector<std::int64_t> labels;

  std::size_t size() const { return labels.size(); }
};

struct LoaderSettings {
  std::size_t batch_size = 128;
  int workers = 2;  ///< 0: next() prepares the batch itself
  bool augment = false;
  std::uint64_t seed = 1;
  int epoch = 0;
};

/// Goes once over the given images. Workers fill a ring of batches, each the next one that nobody
/// has taken yet; next() hands them out in order. The batches do not depend on the number of
/// workers.
class BatchLoader {
 public:
  /// `images` and `normalizer` must outlive the loader.
  BatchLoader(const ImageSet& images, const Normalizer& normalizer,
              std::vector<std::size_t> indices, LoaderSettings settings);
  BatchLoader(const BatchLoader&) = delete;
  BatchLoader& operator=(const BatchLoader&) = delete;

  std::size_t batches() const;

  /// Swaps the next batch into `batch`, whose memory is used again for a later one. False at the
  /// end.
  bool next(Batch& batch);

 private:
  struct Slot {
    Batch batch;
    bool full = false;
  };

  void work(const std::stop_token& stop);
  void fill(std::size_t number, Batch& batch) const;

  const ImageSet& images_;
  const Normalizer& normalizer_;
  const std::vector<std::size_t> indices_;
  const LoaderSettings settings_;

  std::mutex mutex_;
  std::condition_variable_any slot_free_;
  std::condition_variable slot_full_;
  std::vector<Slot> ring_;  // batch n lies in slot n % ring_.size()
  std::size_t next_to_fill_ = 0;
  std::size_t next_to_give_ = 0;
  std::exception_ptr failure_;
  std::vector<std::jthread> workers_;  // last: stopped and joined before the rest goes
};

}  // namespace resnet_example
