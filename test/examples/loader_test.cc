#include "loader.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <latch>
#include <numeric>
#include <optional>
#include <random>
#include <semaphore>
#include <set>
#include <stdexcept>
#include <utility>

namespace resnet_example {
namespace {

/// Images of one channel whose pixels are (image + position) modulo 256, normalised to byte / 255.
Dataset ramp(std::size_t count) {
  Dataset data{.name = "ramp", .mean = {0.0F}, .std = {1.0F}, .train = {.channels = 1}};
  for (std::size_t i = 0; i < count; ++i) {
    data.train.labels.push_back(static_cast<std::uint8_t>(i % 10));
    for (std::size_t p = 0; p < 1024; ++p) {
      data.train.pixels.push_back(static_cast<std::uint8_t>(i + p));
    }
  }
  return data;
}

float at(const std::vector<float>& image, int y, int x) {
  return image[static_cast<std::size_t>(y * kImageSide + x)];
}

/// Slots in ordinary memory.
class Slots {
 public:
  Slots(std::size_t count, std::size_t batch_size, int channels = 1) : memory_(count) {
    for (Memory& memory : memory_) {
      memory.images.resize(batch_size * static_cast<std::size_t>(channels) * 1024);
      memory.labels.resize(batch_size);
      lent_.push_back({.images = memory.images.data(), .labels = memory.labels.data()});
    }
  }

  std::vector<BatchSlot>& lent() { return lent_; }

 private:
  struct Memory {
    std::vector<float> images;
    std::vector<std::int64_t> labels;
  };

  std::vector<Memory> memory_;
  std::vector<BatchSlot> lent_;
};

struct Copy {
  std::vector<float> images;
  std::vector<std::int64_t> labels;

  bool operator==(const Copy&) const = default;
};

/// Of images of one channel.
Copy copy_of(const Batch& batch, Slots& slots) {
  const BatchSlot& slot = slots.lent()[batch.slot];
  return {{slot.images, slot.images + batch.size * 1024}, {slot.labels, slot.labels + batch.size}};
}

std::vector<std::size_t> some_order(std::size_t images) {
  std::vector<std::size_t> order(images);
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::shuffle(order.begin(), order.end(), std::mt19937(1));
  return order;
}

std::vector<Copy> all_batches(const Dataset& data, std::vector<std::size_t> indices,
                              LoaderSettings settings, std::size_t slot_count = 3) {
  const Normalizer normalizer(data);
  Slots slots(slot_count, settings.batch_size);
  BatchLoader loader(data.train, normalizer, std::move(indices), settings, slots.lent());
  std::vector<Copy> batches;
  while (const auto batch = loader.next()) batches.push_back(copy_of(*batch, slots));
  EXPECT_EQ(batches.size(), loader.batches());
  return batches;
}

TEST(Augment, IsTheSameForSeedEpochAndImage) {
  std::set<int> shifts;
  int flips = 0;
  int moved = 0;
  for (std::size_t image = 0; image < 1000; ++image) {
    const Augmentation a = draw_augmentation(1, 3, image);
    const Augmentation again = draw_augmentation(1, 3, image);
    EXPECT_EQ(a.shift_x, again.shift_x);
    EXPECT_EQ(a.flip, again.flip);
    const Augmentation other = draw_augmentation(1, 4, image);
    if (a.shift_x != other.shift_x || a.shift_y != other.shift_y) ++moved;
    shifts.insert(a.shift_x);
    shifts.insert(a.shift_y);
    flips += a.flip ? 1 : 0;
  }
  EXPECT_EQ(*shifts.begin(), -kCropPadding);
  EXPECT_EQ(*shifts.rbegin(), kCropPadding);
  EXPECT_EQ(shifts.size(), 9U);
  EXPECT_NEAR(flips, 500, 80);
  EXPECT_GT(moved, 900);
}

TEST(Augment, ShiftsFlipsAndFillsWithBlack) {
  Dataset data = ramp(1);
  data.mean = {0.5F};
  data.std = {0.25F};
  const Normalizer normalizer(data);
  const auto value = [&](int y, int x) {
    const auto byte = data.train.pixels[static_cast<std::size_t>(y * kImageSide + x)];
    return (static_cast<float>(byte) / 255.0F - 0.5F) / 0.25F;
  };
  std::vector<float> plain(1024);
  normalizer.write(data.train, 0, {}, plain.data());
  EXPECT_FLOAT_EQ(at(plain, 3, 5), value(3, 5));

  std::vector<float> moved(1024);
  normalizer.write(data.train, 0, {.shift_x = 4, .shift_y = -3}, moved.data());
  EXPECT_FLOAT_EQ(at(moved, 10, 5), value(7, 9));
  EXPECT_FLOAT_EQ(at(moved, 2, 5), -2.0F);
  EXPECT_FLOAT_EQ(at(moved, 10, 28), -2.0F);
  EXPECT_FLOAT_EQ(at(moved, 3, 27), value(0, 31));

  std::vector<float> flipped(1024);
  normalizer.write(data.train, 0, {.shift_x = 4, .shift_y = -3, .flip = true}, flipped.data());
  for (int y = 0; y < kImageSide; ++y) {
    for (int x = 0; x < kImageSide; ++x) ASSERT_EQ(at(flipped, y, x), at(moved, y, 31 - x));
  }
}

TEST(Augment, NormalisesEachChannelByItsOwn) {
  const Dataset data{.name = "three",
                     .mean = {0.0F, 0.5F, 1.0F},
                     .std = {1.0F, 0.5F, 0.25F},
                     .train = {.channels = 3, .pixels = std::vector<std::uint8_t>(3072, 255)}};
  std::vector<float> out(3072);
  Normalizer(data).write(data.train, 0, {}, out.data());
  EXPECT_FLOAT_EQ(out[0], 1.0F);
  EXPECT_FLOAT_EQ(out[1024], 1.0F);
  EXPECT_FLOAT_EQ(out[2048], 0.0F);
}

TEST(Loader, BatchesDoNotDependOnTheWorkersOrSlots) {
  const Dataset data = ramp(203);
  const auto indices = some_order(203);
  LoaderSettings settings{.batch_size = 16, .workers = 0, .augment = true, .seed = 9, .epoch = 4};
  const std::vector<Copy> expected = all_batches(data, indices, settings);
  ASSERT_EQ(expected.size(), 13U);
  EXPECT_EQ(expected.back().labels.size(), 203U - 12 * 16);
  for (const int workers : {0, 1, 2, 4}) {
    settings.workers = workers;
    for (const std::size_t slots : {1U, 2U, 5U, 20U}) {
      const std::vector<Copy> batches = all_batches(data, indices, settings, slots);
      ASSERT_EQ(batches.size(), expected.size());
      for (std::size_t i = 0; i < batches.size(); ++i) {
        ASSERT_EQ(batches[i], expected[i])
            << workers << " workers, " << slots << " slots, batch " << i;
      }
    }
  }
}

TEST(Loader, GivesTheImagesAskedForInOrder) {
  const Dataset data = ramp(20);
  const auto batches = all_batches(data, {19, 3, 7}, {.batch_size = 2, .workers = 2});
  ASSERT_EQ(batches.size(), 2U);
  EXPECT_EQ(batches[0].labels, (std::vector<std::int64_t>{9, 3}));
  EXPECT_EQ(batches[1].labels, (std::vector<std::int64_t>{7}));
  EXPECT_FLOAT_EQ(batches[0].images[0], 19.0F / 255.0F);
  EXPECT_FLOAT_EQ(batches[1].images[1], 8.0F / 255.0F);
}

TEST(Loader, OfNothingEndsAtOnce) {
  const Dataset data = ramp(1);
  for (const int workers : {0, 2}) {
    EXPECT_TRUE(all_batches(data, {}, {.batch_size = 4, .workers = workers}).empty());
  }
}

TEST(Loader, CanBeLeftEarly) {
  const Dataset data = ramp(64);
  const Normalizer normalizer(data);
  for (int repetition = 0; repetition < 50; ++repetition) {
    Slots slots(5, 1);
    BatchLoader loader(data.train, normalizer, some_order(64), {.batch_size = 1, .workers = 3},
                       slots.lent());
    for (int i = 0; i < repetition; ++i) ASSERT_TRUE(loader.next());
  }
}

/// The training thread has not asked for any batch yet, and all slots are being filled.
TEST(Loader, WorksAheadOfTheTrainingThread) {
  const Dataset data = ramp(256);
  const Normalizer normalizer(data);
  Slots slots(5, 16);
  std::latch taken(5);
  for (BatchSlot& slot : slots.lent()) {
    slot.was_read = [&] {
      taken.count_down();
      return true;
    };
  }
  BatchLoader loader(data.train, normalizer, some_order(256),
                     {.batch_size = 16, .workers = 2, .augment = true}, slots.lent());
  taken.wait();
}

/// A reader that is as late as it can be: who fills a slot asks it, and finds it unchanged.
TEST(Loader, FillsNoSlotThatIsStillRead) {
  const Dataset data = ramp(64);
  for (const int workers : {0, 1, 3}) {
    Slots slots(3, 4);
    std::array<std::optional<Copy>, 3> held;
    std::array<int, 3> asked{};
    for (std::size_t i = 0; i < held.size(); ++i) {
      slots.lent()[i].was_read = [&, i] {
        if (held[i]) {
          EXPECT_EQ(copy_of({.slot = i, .size = 4}, slots), *held[i]);
        }
        return ++asked[i] % 3 == 0;
      };
    }
    const Normalizer normalizer(data);
    BatchLoader loader(data.train, normalizer, some_order(64),
                       {.batch_size = 4, .workers = workers}, slots.lent());
    while (const auto batch = loader.next()) held[batch->slot] = copy_of(*batch, slots);
    // 16 batches: the first slot took one more than the others, and each asked three times.
    EXPECT_EQ(asked, (std::array{18, 15, 15})) << workers << " workers";
  }
}

TEST(Loader, CanBeLeftWhileASlotIsStillRead) {
  const Dataset data = ramp(64);
  const Normalizer normalizer(data);
  Slots slots(2, 4);
  std::counting_semaphore<> asked{0};
  slots.lent()[1].was_read = [&] {
    asked.release();
    return false;
  };
  BatchLoader loader(data.train, normalizer, some_order(64), {.batch_size = 4, .workers = 2},
                     slots.lent());
  EXPECT_TRUE(loader.next());
  asked.acquire();
}

TEST(Loader, TellsTheTrainingThreadOfFailures) {
  const Dataset data = ramp(64);
  const Normalizer normalizer(data);
  for (const int workers : {0, 2}) {
    Slots slots(2, 4);
    slots.lent()[1].was_read = []() -> bool { throw std::runtime_error("the GPU has failed"); };
    BatchLoader loader(data.train, normalizer, some_order(64),
                       {.batch_size = 4, .workers = workers}, slots.lent());
    try {
      while (loader.next()) {
      }
      ADD_FAILURE() << "no error with " << workers << " workers";
    } catch (const std::runtime_error& error) {
      EXPECT_STREQ(error.what(), "the GPU has failed");
    }
  }
}

}  // namespace
}  // namespace resnet_example
