#include "data/staged_data.h"

#include <fmt/format.h>

#include <utility>
#include <vector>

#include "cuda/check.h"
#include "cuda/event.h"

namespace kolo::core {
namespace {

using Staging = StagedDataPlane::Staging;

class StagedOperation final : public Operation {
 public:
  StagedOperation(DataPlane& host, Staging& staging, const Collective& collective)
      : host_(host), staging_(staging), collective_(collective) {
    ++staging_.in_flight;
  }

  ~StagedOperation() override {
    --staging_.in_flight;
    if (state_ == State::Done && block_.begin != nullptr) staging_.memory.give_back(block_);
  }

  StagedOperation(const StagedOperation&) = delete;
  StagedOperation& operator=(const StagedOperation&) = delete;

  Result<Progress> progress() override {
    const cuda::DeviceGuard guard(staging_.device);
    if (!guard.status().ok()) return guard.status();
    bool moved = false;
    while (state_ != State::Done) {
      const Result<bool> left = leaves_state();
      if (!left.ok()) return left.status();
      if (!left.value()) return moved ? Progress::Moved : Progress::Waiting;
      moved = true;
    }
    return Progress::Done;
  }

  std::vector<int> missing() const override {
    return exchange_ == nullptr ? std::vector<int>() : exchange_->missing();
  }

 private:
  enum class State { Waiting, Taking, Exchanging, Giving, Done };

  /// Whether it went from one state to the next.
  Result<bool> leaves_state() {
    switch (state_) {
      case State::Waiting:
        return begin_taking();
      case State::Taking:
        return begin_exchange();
      case State::Exchanging:
        return begin_giving();
      case State::Giving:
        return end();
      case State::Done:
        break;
    }
    return false;
  }

  Result<bool> begin_taking() {
    for (const auto& ready : collective_.ready) {
      const Result<bool> reached = ready->reached();
      if (!reached.ok() || !reached.value()) return reached;
    }
    if (bytes() > 0) {
      const Result<cuda::PinnedMemory::Block> block = staging_.memory.take(bytes());
      if (!block.ok()) return block.status();
      block_ = block.value();
    }
    if (gives()) {
      const Status status =
          copy(staging_.out, block_.begin, collective_.output, cudaMemcpyDeviceToHost);
      if (!status.ok()) return status;
    }
    state_ = State::Taking;
    return true;
  }

  Result<bool> begin_exchange() {
    if (const Result<bool> copied = is_copied(); !copied.ok() || !copied.value()) return copied;
    Collective host = collective_;
    host.device = DeviceType::Cpu;
    host.ready.clear();
    host.output = block_.begin;
    StartedOperation started = host_.start(host);
    if (!started.ok()) return started.status();
    exchange_ = std::move(started).value();
    state_ = State::Exchanging;
    return true;
  }

  Result<bool> begin_giving() {
    const Result<Progress> progress = exchange_->progress();
    if (!progress.ok()) return progress.status();
    if (progress.value() != Progress::Done) return false;
    if (takes()) {
      const Status status =
          copy(staging_.in, collective_.output, block_.begin, cudaMemcpyHostToDevice);
      if (!status.ok()) return status;
    }
    state_ = State::Giving;
    return true;
  }

  Result<bool> end() {
    const Result<bool> copied = is_copied();
    if (copied.ok() && copied.value()) state_ = State::Done;
    return copied;
  }

  bool is_root() const { return collective_.root_member == collective_.member; }
  bool reduces() const { return collective_.kind == CollectiveKind::Allreduce; }
  bool gives() const { return bytes() > 0 && (reduces() || is_root()); }
  bool takes() const { return bytes() > 0 && (reduces() || !is_root()); }
  std::size_t bytes() const {
    return static_cast<std::size_t>(collective_.count) * size_of(collective_.dtype);
  }

  Status copy(std::optional<cuda::Stream>& stream, void* to, const void* from,
              cudaMemcpyKind direction) {
    if (!stream) {
      Result<cuda::Stream> created = cuda::Stream::create_urgent();
      if (!created.ok()) return created.status();
      stream = std::move(created).value();
    }
    const Status queued = cuda::check(cudaMemcpyAsync(to, from, bytes(), direction, stream->get()),
                                      "cudaMemcpyAsync");
    if (!queued.ok()) return queued;
    Result<std::shared_ptr<cuda::Event>> end = cuda::Event::record(stream->get());
    if (!end.ok()) return end.status();
    copied_ = std::move(end).value();
    return {};
  }

  /// Whether the GPU is through with the last copy.
  Result<bool> is_copied() const { return copied_ == nullptr ? true : copied_->reached(); }

  DataPlane& host_;
  Staging& staging_;
  const Collective collective_;
  State state_ = State::Waiting;
  cuda::PinnedMemory::Block block_;
  std::shared_ptr<cuda::Event> copied_;
  std::unique_ptr<Operation> exchange_;
};

}  // namespace

StagedDataPlane::StagedDataPlane(std::shared_ptr<DataPlane> host, int device)
    : host_(std::move(host)), staging_{.device = device} {}

StagedDataPlane::~StagedDataPlane() { drain(); }

StartedOperation StagedDataPlane::start(const Collective& collective) {
  if (collective.kind != CollectiveKind::Allreduce &&
      collective.kind != CollectiveKind::Broadcast) {
    return Status::error(
        fmt::format("no operation for this data plane: {}", to_string(collective.kind)));
  }
  auto operation = std::make_unique<StagedOperation>(*host_, staging_, collective);
  if (const auto progress = operation->progress(); !progress.ok()) return progress.status();
  return std::unique_ptr<Operation>(std::move(operation));
}

void StagedDataPlane::drain() {
  const cuda::DeviceGuard guard(staging_.device);
  for (const std::optional<cuda::Stream>* stream : {&staging_.out, &staging_.in}) {
    if (*stream) (void)cudaStreamSynchronize((*stream)->get());
  }
}

}  // namespace kolo::core
