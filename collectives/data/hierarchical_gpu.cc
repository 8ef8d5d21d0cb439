#include <algorithm>
#include <utility>
#include <vector>

#include "data/hierarchical_operations.h"

namespace kolo::core {
namespace {

/// What a GPU does before and after the chunks is an operation of the near plane in which this
/// member is alone, on no elements. States, in this order:
///
///   Packing    the GPU waits for the memory to be ready, and packs
///   Chunks     go through their steps; those on the GPU follow the packing
///   Unpacking  the GPU unpacks
///   Done       the GPU has run it all
class GpuOperation final : public Operation {
 public:
  GpuOperation(const HierarchicalSetup& setup, const Collective& collective)
      : setup_(setup), collective_(collective) {}

  ~GpuOperation() override {
    if (state_ == State::Done) return;
    setup_.order->fail(Status::error("an operation before it was given up"));
    // Peers on this host may have come further.
    if (chunks_ == nullptr) (void)start_chunks({});
  }

  GpuOperation(const GpuOperation&) = delete;
  GpuOperation& operator=(const GpuOperation&) = delete;

  Result<Progress> progress() override {
    if (const Status& failure = setup_.order->failure(); !failure.ok()) return failure;
    const State before = state_;
    if (packing_ == nullptr) {
      if (Status status = start_packing(); !status.ok()) return status;
    }
    const Result<bool> packed = finish(*packing_, packed_);
    if (!packed.ok()) return packed.status();
    bool moved = packed.value();
    if (state_ == State::Packing && packing_->issued() != nullptr) {
      if (Status status = start_chunks({packing_->issued()}); !status.ok()) return status;
      state_ = State::Chunks;
    }
    if (state_ == State::Chunks) {
      const Result<Progress> progress = chunks_->progress();
      if (!progress.ok()) return progress;
      moved = moved || progress.value() == Progress::Moved;
      if (progress.value() == Progress::Done) {
        if (Status status = start_unpacking(); !status.ok()) return status;
        state_ = State::Unpacking;
      }
    }
    if (state_ == State::Unpacking) {
      const Result<bool> unpacked = finish(*unpacking_, unpacked_);
      if (!unpacked.ok()) return unpacked.status();
      moved = moved || unpacked.value();
      if (packed_ && unpacked_) state_ = State::Done;
    }
    if (state_ == State::Done) return Progress::Done;
    return moved || state_ != before ? Progress::Moved : Progress::Waiting;
  }

  std::vector<int> missing() const override {
    return chunks_ == nullptr ? std::vector<int>() : chunks_->missing();
  }

  std::shared_ptr<DeviceEvent> issued() const override {
    return unpacking_ == nullptr ? nullptr : unpacking_->issued();
  }

  std::optional<DeviceTimes> device_times() const override {
    const std::optional<DeviceTimes> before = packing_->device_times();
    const std::optional<DeviceTimes> after = unpacking_->device_times();
    if (!before || !after) return std::nullopt;
    // Each lane has compared clocks for itself.
    const auto reduced = std::max(before->packed, after->started);
    return DeviceTimes{before->started, before->packed, reduced,
                       std::max(reduced, after->unpacked)};
  }

 private:
  enum class State { Packing, Chunks, Unpacking, Done };

  Collective alone(GpuLane lane) const {
    return {.dtype = collective_.dtype,
            .ranks = {collective_.ranks[static_cast<std::size_t>(collective_.member)]},
            .channel = collective_.channel,
            .sequence = collective_.sequence,
            .device = collective_.device,
            .timed = collective_.timed,
            .lane = static_cast<int>(lane)};
  }

  Status start_packing() {
    Collective packing = alone(GpuLane::Packing);
    packing.ready = collective_.ready;
    packing.pack = collective_.pack;
    return start(packing, packing_);
  }

  Status start_unpacking() {
    Collective unpacking = alone(GpuLane::Unpacking);
    unpacking.unpack = collective_.unpack;
    return start(unpacking, unpacking_);
  }

  Status start(const Collective& collective, std::unique_ptr<Operation>& operation) const {
    StartedOperation started = setup_.near.start(collective);
    if (!started.ok()) return started.status();
    operation = std::move(started).value();
    return {};
  }

  Status start_chunks(std::vector<std::shared_ptr<DeviceEvent>> ready) {
    Collective chunks = collective_;
    chunks.ready = std::move(ready);
    chunks.pack.clear();
    chunks.unpack.clear();
    chunks.timed = false;
    StartedOperation started = chunks.kind == CollectiveKind::Allreduce
                                   ? start_hierarchical_allreduce(setup_, chunks)
                                   : start_hierarchical_broadcast(setup_, chunks);
    if (!started.ok()) return started.status();
    chunks_ = std::move(started).value();
    return {};
  }

  /// Whether it has moved.
  static Result<bool> finish(Operation& operation, bool& done) {
    if (done) return false;
    const Result<Progress> progress = operation.progress();
    if (!progress.ok()) return progress.status();
    done = progress.value() == Progress::Done;
    return progress.value() != Progress::Waiting;
  }

  const HierarchicalSetup setup_;
  const Collective collective_;
  State state_ = State::Packing;
  std::unique_ptr<Operation> packing_, chunks_, unpacking_;
  bool packed_ = false;
  bool unpacked_ = false;
};

}  // namespace

StartedOperation start_hierarchical_on_gpu(const HierarchicalSetup& setup,
                                           const Collective& collective) {
  auto operation = std::make_unique<GpuOperation>(setup, collective);
  if (const auto progress = operation->progress(); !progress.ok()) return progress.status();
  return std::unique_ptr<Operation>(std::move(operation));
}

}  // namespace kolo::core
