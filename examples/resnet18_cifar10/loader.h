#pragma once

/// Prepares batches ahead of the training thread.

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <optional>
#include <stop_token>
#include <thread>
#include <vector>

#include "augment.h"
#include "dataset.h"

namespace resnet_example {

/// Memory for one batch, which its owner lends to a loader.
struct BatchSlot {
  float* images;  ///< batch_size × channels × 32 × 32
  std::int64_t* labels;
  /// Whether what it held last was read by whoever reads on behind the training thread, such as a
  /// GPU. Called by the thread that wants to fill it.
  std::function<bool()> was_read = [] { return true; };
};

/// A batch that is ready.
struct Batch {
  std::size_t slot;
  std::size_t size;
};

struct LoaderSettings {
  std::size_t batch_size = 128;
  int workers = 2;  ///< 0: next() prepares the batch itself
  bool augment = false;
  std::uint64_t seed = 1;
  int epoch = 0;
};

/// Goes once over the given images. Workers fill the slots, each the next batch that nobody has
/// taken yet; next() hands them out in order. The batches do not depend on the number of workers or
/// slots.
///
/// | a slot is | until                                | what orders the memory                    |
/// | --------- | ------------------------------------ | ----------------------------------------- |
/// | free      | a worker takes it for its next batch | mutex_                                    |
/// | filled    | next() hands it out                  | mutex_: the worker's writes, then reading |
/// | in use    | next() is called again               | mutex_                                    |
/// | left      | was_read()                           | was_read(): reading, then a worker's      |
/// |           |                                      | writes                                    |
class BatchLoader {
 public:
  /// `images`, `normalizer` and `slots`, of which there is one at least, must outlive the loader.
  BatchLoader(const ImageSet& images, const Normalizer& normalizer,
              std::vector<std::size_t> indices, LoaderSettings settings,
              const std::vector<BatchSlot>& slots);
  BatchLoader(const BatchLoader&) = delete;
  BatchLoader& operator=(const BatchLoader&) = delete;

  std::size_t batches() const;

  /// The next batch, whose slot is in use until the next call. Nothing at the end.
  std::optional<Batch> next();

 private:
  void work(const std::stop_token& stop);
  /// Waits until the slot was read. Fills nothing if it is stopped meanwhile.
  void fill(std::size_t number, const std::stop_token& stop) const;
  std::size_t slot_of(std::size_t number) const { return number % slots_.size(); }
  std::size_t size_of(std::size_t number) const;

  const ImageSet& images_;
  const Normalizer& normalizer_;
  const std::vector<std::size_t> indices_;
  const LoaderSettings settings_;
  const std::vector<BatchSlot>& slots_;

  std::mutex mutex_;
  std::condition_variable_any slot_left_;
  std::condition_variable slot_filled_;
  std::vector<bool> filled_;  // by slot
  std::size_t next_to_fill_ = 0;
  std::size_t next_to_give_ = 0;
  std::size_t left_ = 0;  // batches whose slots are not in use any more
  std::exception_ptr failure_;
  std::vector<std::jthread> workers_;  // last: stopped and joined before the rest goes
};

}  // namespace resnet_example
