// Every wait between streams is needed: without any one of them values come out wrong.

#include <gmock/gmock.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "gpu_ranks.h"
#include "left_out.h"

namespace kolo::core {
namespace {

using gpus::Rank;
using gpus::UserStream;
using oracle::Bytes;

constexpr std::int64_t kCount = 300;
constexpr auto kLong = std::chrono::milliseconds(4);

/// What a program does with one rank's GPU: each step waits on the GPU for the one before, none on
/// the host.
class Program {
 public:
  /// `seed`: of several that come late, which one is the last.
  Program(Rank& rank, std::uint64_t seed) : rank_(rank), odd_(seed % 2 != 0) {}

  /// The number of results that are wrong.
  int run() {
    single();
    out_of_place();
    fused();
    twice();
    for (UserStream& stream : streams_) stream.finish();
    for (const auto& operation : operations_) {
      while (operation->progress().value() != Operation::Progress::Done) rank_.idle();
    }
    int wrong = 0;
    for (const Expectation& expectation : expectations_) {
      wrong +=
          gpus::find_error(expectation.collective, expectation.inputs, *expectation.result).empty()
              ? 0
              : 1;
    }
    return wrong;
  }

 private:
  struct Expectation {
    Collective collective;
    std::vector<Bytes> inputs;
    std::unique_ptr<Bytes> result;
  };

  Collective sum(std::int64_t count = kCount) {
    Collective c = gpus::collective_on(rank_, next_++, count);
    c.dtype = DataType::Int32;
    return c;
  }

  std::byte* memory(std::int64_t count = kCount) {
    const auto bytes = static_cast<std::size_t>(count) * sizeof(std::int32_t);
    memory_.push_back(rank_.plane.allocate(DeviceType::Cuda, bytes).value());
    return memory_.back().get();
  }

  Bytes own_input(const Collective& c) {
    return gpus::inputs_of(c, c.sequence)[static_cast<std::size_t>(rank_.rank)];
  }

  /// Writes late what the collective reads. The first rank, whose waits are left out, is the last.
  void produce(UserStream& stream, Collective& c, void* to, const Bytes& values,
               std::chrono::microseconds later = {}) {
    stream.dawdle(later + (rank_.rank == 0 ? 3 * kLong : kLong));
    stream.write(to, values);
    c.ready.push_back(stream.now());
  }

  /// Until it is in the GPU's queue.
  std::shared_ptr<DeviceEvent> issue(const Collective& c) {
    operations_.push_back(rank_.plane.start(c).value());
    Operation& operation = *operations_.back();
    while (operation.issued() == nullptr) {
      EXPECT_TRUE(operation.progress().ok());
      rank_.idle();
    }
    return operation.issued();
  }

  void consume(UserStream& stream, const Collective& c, const void* from, const DeviceEvent& after,
               std::chrono::microseconds later = {}) {
    stream.wait_for(after);
    stream.dawdle(later);
    Expectation expectation{c, gpus::inputs_of(c, c.sequence),
                            std::make_unique<Bytes>(own_input(c).size())};
    stream.read(from, *expectation.result);
    expectations_.push_back(std::move(expectation));
  }

  void single() {
    Collective c = sum();
    std::byte* const place = memory();
    c.input = c.output = place;
    produce(streams_[0], c, place, own_input(c));
    consume(streams_[1], c, place, *issue(c));
  }

  void out_of_place() {
    Collective c = sum();
    std::byte* const from = memory();
    c.input = from;
    c.output = memory();
    produce(streams_[0], c, from, own_input(c));
    consume(streams_[1], c, c.output, *issue(c));
  }

  /// Two tensors, of which each has a stream of its own.
  void fused() {
    Collective c = sum(2 * kCount);
    std::byte* const buffer = memory(2 * kCount);
    c.input = c.output = buffer;
    const Bytes own = own_input(c);
    const auto half = static_cast<std::ptrdiff_t>(own.size() / 2);
    std::array<std::byte*, 2> tensors = {memory(), memory()};
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      std::byte* const place = buffer + static_cast<std::ptrdiff_t>(i) * half;
      c.pack.push_back({tensors[i], place, kCount});
      c.unpack.push_back({place, tensors[i], kCount});
      const auto begin = own.begin() + static_cast<std::ptrdiff_t>(i) * half;
      produce(streams_[i], c, tensors[i], {begin, begin + half},
              odd_ == (i == 0) ? 3 * kLong : 0 * kLong);
    }
    const auto issued = issue(c);
    UserStream& consumer = streams_[2];
    consumer.wait_for(*issued);
    Expectation expectation{c, gpus::inputs_of(c, c.sequence), std::make_unique<Bytes>(own.size())};
    const std::span<std::byte> all(*expectation.result);
    consumer.read(tensors[0], all.first(own.size() / 2));
    consumer.read(tensors[1], all.subspan(own.size() / 2));
    expectations_.push_back(std::move(expectation));
  }

  /// The second one in the memory of the first, which is read late.
  void twice() {
    std::byte* const place = memory();
    Collective first = sum();
    first.input = first.output = place;
    produce(streams_[0], first, place, own_input(first));
    const auto issued = issue(first);
    consume(streams_[1], first, place, *issued, odd_ ? 5 * kLong : 0 * kLong);

    Collective second = sum();
    second.input = second.output = place;
    streams_[0].wait_for(*streams_[1].now());
    produce(streams_[0], second, place, own_input(second));
    consume(streams_[2], second, place, *issue(second));
  }

  Rank& rank_;
  const bool odd_;
  std::uint64_t next_ = 0;
  std::array<UserStream, 3> streams_{UserStream(rank_.device), UserStream(rank_.device),
                                     UserStream(rank_.device)};
  std::vector<std::shared_ptr<std::byte>> memory_;
  std::vector<std::unique_ptr<Operation>> operations_;
  std::vector<Expectation> expectations_;
};

/// On two ranks.
int run(std::uint64_t seed, std::optional<std::int64_t> left_out) {
  std::atomic<int> wrong = 0;
  gpus::Options options;
  options.doubles.seed = seed;
  options.prepare = [left_out] {
    if (left_out) doubles::skip_wait(*left_out, 0);
  };
  gpus::run(
      2, [&](Rank& rank) { wrong += Program(rank, seed).run(); }, options);
  return wrong;
}

TEST(NcclWaits, AreAllNeeded) {
  expect_right_with_all(run);
  // Of the host there are none.
  EXPECT_EQ(doubles::calls("cudaStreamSynchronize"), 0);
  EXPECT_EQ(doubles::calls("cudaEventSynchronize"), 0);
  const std::int64_t waits = doubles::waits(0);
  // One for each result, each input, and the memory that is used again.
  EXPECT_EQ(waits, 5 + 6 + 1);
  EXPECT_THAT(find_not_missed(waits, run), ::testing::IsEmpty());
}

}  // namespace
}  // namespace kolo::core
