#include "loader.h"

#include <algorithm>
#include <chrono>
#include <utility>

namespace resnet_example {
namespace {

/// How often a worker looks whether a slot was read. The slots beyond it last for longer.
constexpr std::chrono::microseconds kLookAgain{500};

}  // namespace

BatchLoader::BatchLoader(const ImageSet& images, const Normalizer& normalizer,
                         std::vector<std::size_t> indices, LoaderSettings settings,
                         const std::vector<BatchSlot>& slots)
    : images_(images),
      normalizer_(normalizer),
      indices_(std::move(indices)),
      settings_(settings),
      slots_(slots),
      filled_(slots.size()) {
  for (int i = 0; i < settings_.workers; ++i) {
    workers_.emplace_back([this](const std::stop_token& stop) { work(stop); });
  }
}

std::size_t BatchLoader::batches() const {
  return (indices_.size() + settings_.batch_size - 1) / settings_.batch_size;
}

std::size_t BatchLoader::size_of(std::size_t number) const {
  return std::min(settings_.batch_size, indices_.size() - number * settings_.batch_size);
}

std::optional<Batch> BatchLoader::next() {
  std::unique_lock lock(mutex_);
  left_ = next_to_give_;
  slot_left_.notify_one();
  if (next_to_give_ == batches()) return std::nullopt;
  const std::size_t number = next_to_give_;
  const std::size_t slot = slot_of(number);
  if (workers_.empty()) {
    fill(number, {});
  } else {
    slot_filled_.wait(lock, [&] { return filled_[slot] || failure_; });
    if (failure_) std::rethrow_exception(failure_);
    filled_[slot] = false;
  }
  ++next_to_give_;
  return Batch{.slot = slot, .size = size_of(number)};
}

void BatchLoader::work(const std::stop_token& stop) {
  std::unique_lock lock(mutex_);
  for (;;) {
    auto may_fill = [&] {
      return next_to_fill_ == batches() || next_to_fill_ < left_ + slots_.size();
    };
    slot_left_.wait(lock, stop, may_fill);
    if (stop.stop_requested() || next_to_fill_ == batches()) return;
    const std::size_t number = next_to_fill_++;
    lock.unlock();
    std::exception_ptr failure;
    try {
      fill(number, stop);
    } catch (...) {
      failure = std::current_exception();
    }
    lock.lock();
    filled_[slot_of(number)] = true;
    if (failure) failure_ = failure;
    slot_filled_.notify_one();
  }
}

void BatchLoader::fill(std::size_t number, const std::stop_token& stop) const {
  const BatchSlot& slot = slots_[slot_of(number)];
  while (!slot.was_read()) {
    if (stop.stop_requested()) return;
    std::this_thread::sleep_for(kLookAgain);
  }
  const std::size_t first = number * settings_.batch_size;
  for (std::size_t i = 0; i < size_of(number); ++i) {
    const std::size_t image = indices_[first + i];
    const Augmentation augmentation =
        settings_.augment ? draw_augmentation(settings_.seed, settings_.epoch, image)
                          : Augmentation{};
    normalizer_.write(images_, image, augmentation, slot.images + i * images_.image_bytes());
    slot.labels[i] = images_.labels[image];
  }
}

}  // namespace resnet_example
