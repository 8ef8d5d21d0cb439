// Where the host's plane works for a GPU, the host waits by asking whether the GPU has come there.
// Every such wait is needed: with one answer that comes too early, values come out wrong.

#include <gmock/gmock.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <vector>

#include "base/doorbell.h"
#include "data/inproc_data.h"
#include "data/staged_data.h"
#include "gpu_ranks.h"
#include "left_out.h"

namespace kolo::core {
namespace {

using gpus::Rank;
using gpus::UserStream;
using oracle::Bytes;

constexpr int kStagedRanks = 2;
constexpr std::int64_t kStagedCount = 300;
constexpr auto kLate = std::chrono::milliseconds(4);

/// What a program does with one rank's GPU: one operation after the other in the same memory, which
/// is used as soon as one is Done.
class StagedProgram {
 public:
  explicit StagedProgram(Rank& rank) : rank_(rank) {}

  /// The number of results that are wrong.
  int run() {
    operate(CollectiveKind::Allreduce);
    operate(CollectiveKind::Broadcast, 0);
    operate(CollectiveKind::Broadcast, 1);
    stream_.finish();
    // What was Done too early may still use the memory.
    rank_.plane.drain();
    int wrong = 0;
    for (const auto& [collective, inputs, result] : uses_) {
      wrong += gpus::find_error(collective, inputs, result).empty() ? 0 : 1;
    }
    return wrong;
  }

 private:
  static constexpr std::size_t kBytes = kStagedCount * sizeof(std::int32_t);

  struct Use {
    Collective collective;
    std::vector<Bytes> inputs;
    Bytes result;
  };

  void operate(CollectiveKind kind, int root = 0) {
    Collective c = gpus::collective_on(rank_, uses_.size(), kStagedCount);
    c.kind = kind;
    c.dtype = DataType::Int32;
    c.root_member = root;
    Use& use = uses_.emplace_back(Use{c, gpus::inputs_of(c, c.sequence), Bytes(kBytes)});

    // The first rank, about which the GPU lies, is the last.
    stream_.dawdle(rank_.rank == 0 ? 3 * kLate : kLate);
    stream_.write(memory_.get(), use.inputs[static_cast<std::size_t>(rank_.rank)]);
    c.input = c.output = memory_.get();
    c.ready.push_back(stream_.now());
    const auto operation = rank_.plane.start(c).value();
    while (operation->progress().value() != Operation::Progress::Done) rank_.idle();
    stream_.read(memory_.get(), use.result);
  }

  Rank& rank_;
  const std::shared_ptr<std::byte> memory_ = gpus::cuda_memory(rank_.device, kBytes);
  /// When it finishes another GPU is current, so what it asks is not counted among the plane's.
  UserStream stream_{rank_.device};
  std::deque<Use> uses_;
};

int run_staged(std::uint64_t seed, std::optional<std::int64_t> left_out) {
  std::atomic<int> wrong = 0;
  const auto hub = InprocDataHub::create(kStagedRanks);
  std::array<Doorbell, kStagedRanks> doorbells;
  gpus::Options options;
  options.doubles.seed = seed;
  // So long that a copy which nobody waits for is often late, whatever the machine does.
  options.doubles.longest_delay = kLate / 2;
  options.prepare = [left_out] {
    if (left_out) doubles::answer_early(*left_out, 0);
  };
  options.wrap_plane = [&](int rank, const std::shared_ptr<DataPlane>& /*nccl*/) {
    return std::make_shared<StagedDataPlane>(
        hub->connect(rank, doorbells[static_cast<std::size_t>(rank)]), rank);
  };
  gpus::run(
      kStagedRanks, [&](Rank& rank) { wrong += StagedProgram(rank).run(); }, options);
  return wrong;
}

TEST(StagedWaits, AreAllNeeded) {
  expect_right_with_all(run_staged);
  const std::int64_t asked = doubles::asked(0);
  // Ready, copied, and copied back; who gives gets nothing back, and who takes gives nothing.
  EXPECT_EQ(asked, 3 + 2 + 2);
  EXPECT_THAT(find_not_missed(asked, run_staged), ::testing::IsEmpty());
}

}  // namespace
}  // namespace kolo::core
