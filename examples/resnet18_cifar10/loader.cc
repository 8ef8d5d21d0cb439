#include "loader.h"

#include <algorithm>
#include <utility>

namespace resnet_example {

BatchLoader::BatchLoader(const ImageSet& images, const Normalizer& normalizer,
                         std::vector<std::size_t> indices, LoaderSettings settings)
    : images_(images),
      normalizer_(normalizer),
      indices_(std::move(indices)),
      settings_(settings),
      ring_(2 * static_cast<std::size_t>(settings.workers)) {
  for (int i = 0; i < settings_.workers; ++i) {
    workers_.emplace_back([this](const std::stop_token& stop) { work(stop); });
  }
}

std::size_t BatchLoader::batches() const {
  return (indices_.size() + settings_.batch_size - 1) / settings_.batch_size;
}

bool BatchLoader::next(Batch& batch) {
  if (next_to_give_ == batches()) return false;
  if (workers_.empty()) {
    fill(next_to_give_++, batch);
    return true;
  }
  std::unique_lock lock(mutex_);
  Slot& slot = ring_[next_to_give_ % ring_.size()];
  slot_full_.wait(lock, [&] { return slot.full || failure_; });
  if (failure_) std::rethrow_exception(failure_);
  std::swap(slot.batch, batch);
  slot.full = false;
  ++next_to_give_;
  slot_free_.notify_one();
  return true;
}

void BatchLoader::work(const std::stop_token& stop) {
  std::unique_lock lock(mutex_);
  for (;;) {
    auto may_fill = [&] {
      return next_to_fill_ == batches() || next_to_fill_ < next_to_give_ + ring_.size();
    };
    slot_free_.wait(lock, stop, may_fill);
    if (stop.stop_requested() || next_to_fill_ == batches()) return;
    const std::size_t number = next_to_fill_++;
    Slot& slot = ring_[number % ring_.size()];
    lock.unlock();
    std::exception_ptr failure;
    try {
      fill(number, slot.batch);
    } catch (...) {
      failure = std::current_exception();
    }
    lock.lock();
    slot.full = true;
    if (failure) failure_ = failure;
    slot_full_.notify_one();
  }
}

void BatchLoader::fill(std::size_t number, Batch& batch) const {
  const std::size_t first = number * settings_.batch_size;
  const std::size_t size = std::min(settings_.batch_size, indices_.size() - first);
  const std::size_t image_floats = images_.image_bytes();
  batch.images.resize(size * image_floats);
  batch.labels.resize(size);
  for (std::size_t i = 0; i < size; ++i) {
    const std::size_t image = indices_[first + i];
    const Augmentation augmentation =
        settings_.augment ? draw_augmentation(settings_.seed, settings_.epoch, image)
                          : Augmentation{};
    normalizer_.write(images_, image, augmentation, batch.images.data() + i * image_floats);
    batch.labels[i] = images_.labels[image];
  }
}

}  // namespace resnet_example
