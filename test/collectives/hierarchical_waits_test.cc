// An operation between hosts on a GPU's memory waits for the operations that it is made of: by
// their events, which it hands on, and by being told that they are Done. Every such wait is needed:
// without any one values come out wrong.

#include <fmt/format.h>
#include <gmock/gmock.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/doorbell.h"
#include "data/hierarchical_data.h"
#include "data/hierarchical_operations.h"
#include "data/inproc_data.h"
#include "data/staged_data.h"
#include "gpu_ranks.h"
#include "left_out.h"

namespace kolo::core {
namespace {

using gpus::Rank;
using gpus::UserStream;
using oracle::Bytes;

// One of which is not alone, but without a slice, and one alone.
constexpr std::array kHosts = {0, 0, 2};
// Of one chunk: those of the same operation wait for each other in the same streams.
constexpr std::int64_t kReduced = 300;
constexpr std::int64_t kReducedBytes = kReduced * sizeof(std::int32_t);

/// What one rank's operations are waited for.
struct InnerWait {
  enum class Plane { Near, Far };
  /// Ready: what it was handed is waited for. Issued: its own event is handed on.
  enum class For { Ready, Issued, Done };

  Plane plane = Plane::Near;
  int lane = 0;
  /// Of the plane's and lane's operations.
  int number = 0;
  For what = For::Ready;

  auto operator<=>(const InnerWait&) const = default;
};

std::string to_string(const InnerWait& wait) {
  constexpr std::array kFor = {"Ready", "Issued", "Done"};
  return fmt::format("{} of the {} plane's operation {} in lane {}",
                     kFor[static_cast<std::size_t>(wait.what)],
                     wait.plane == InnerWait::Plane::Near ? "near" : "far", wait.number, wait.lane);
}

/// Notes one rank's waits, of which it leaves out one.
class InnerWaits {
 public:
  explicit InnerWaits(std::optional<InnerWait> left_out) : left_out_(left_out) {}

  /// Not yet in what only connects ranks, which takes so long that all is ready by then.
  void begin() { begun_ = true; }

  bool leaves_out(const InnerWait& wait) {
    if (!begun_) return false;
    noted_.insert(wait);
    return wait == left_out_;
  }
  const std::set<InnerWait>& noted() const { return noted_; }

  /// What was said to be Done goes on as on a GPU that nobody waits for.
  void let_go_on(std::unique_ptr<Operation> operation) { going_on_ = std::move(operation); }
  bool goes_on() {
    if (going_on_ == nullptr) return false;
    if (going_on_->progress().value() == Operation::Progress::Done) going_on_.reset();
    return going_on_ != nullptr;
  }

 private:
  const std::optional<InnerWait> left_out_;
  bool begun_ = false;
  std::set<InnerWait> noted_;
  std::unique_ptr<Operation> going_on_;
};

/// On a GPU that has nothing to do.
std::shared_ptr<DeviceEvent> reached_event(int device) {
  UserStream stream(device);
  return stream.now();
}

class WatchedOperation final : public Operation {
 public:
  WatchedOperation(std::unique_ptr<Operation> operation, InnerWaits& waits, InnerWait wait,
                   const Collective& collective, std::shared_ptr<DeviceEvent> reached)
      : operation_(std::move(operation)),
        waits_(waits),
        wait_(wait),
        reached_(std::move(reached)),
        lane_(static_cast<GpuLane>(collective.lane)),
        unpacks_(!collective.unpack.empty()) {}
  ~WatchedOperation() override {
    if (early_) waits_.let_go_on(std::move(operation_));
  }
  WatchedOperation(const WatchedOperation&) = delete;
  WatchedOperation& operator=(const WatchedOperation&) = delete;

  /// On the GPU it is in the queue, when it is said to be Done.
  Result<Progress> progress() override {
    waits_.goes_on();
    if (early_) return Progress::Done;
    const Result<Progress> progress = operation_->progress();
    if (!progress.ok() || !ends_matter() || !leaves_out(InnerWait::For::Done)) return progress;
    const bool queued = wait_.plane == InnerWait::Plane::Far || operation_->issued() != nullptr;
    early_ = progress.value() != Progress::Done && queued;
    return early_ ? Progress::Done : progress;
  }

  std::shared_ptr<DeviceEvent> issued() const override {
    const bool hands_on = lane_ == GpuLane::Packing || (lane_ == GpuLane::Unpacking && unpacks_);
    return hands_on && leaves_out(InnerWait::For::Issued) ? reached_ : operation_->issued();
  }

  std::vector<int> missing() const override { return operation_->missing(); }

 private:
  /// Nothing follows the end of the packing, which has ended when all chunks have; and who unpacks
  /// nothing has nothing left to do. They are waited for because operations that are destroyed
  /// before they are Done abort their channel.
  bool ends_matter() const {
    return lane_ != GpuLane::Packing && (lane_ != GpuLane::Unpacking || unpacks_);
  }
  bool leaves_out(InnerWait::For what) const {
    InnerWait wait = wait_;
    wait.what = what;
    return waits_.leaves_out(wait);
  }

  std::unique_ptr<Operation> operation_;
  InnerWaits& waits_;
  const InnerWait wait_;
  const std::shared_ptr<DeviceEvent> reached_;
  const GpuLane lane_;
  const bool unpacks_;
  bool early_ = false;
};

class WatchedData final : public DataPlane {
 public:
  WatchedData(std::shared_ptr<DataPlane> plane, InnerWait::Plane which, InnerWaits& waits,
              int device)
      : plane_(std::move(plane)), which_(which), waits_(waits), reached_(reached_event(device)) {}

  StartedOperation start(const Collective& collective) override {
    const InnerWait wait{which_, collective.lane, started_[collective.lane]++,
                         InnerWait::For::Ready};
    Collective changed = collective;
    if (!collective.ready.empty() && waits_.leaves_out(wait)) changed.ready.clear();
    StartedOperation started = plane_->start(changed);
    if (!started.ok()) return started;
    return std::unique_ptr<Operation>(std::make_unique<WatchedOperation>(
        std::move(started).value(), waits_, wait, collective, reached_));
  }

  Result<std::shared_ptr<std::byte>> allocate(DeviceType device, std::size_t bytes) override {
    return plane_->allocate(device, bytes);
  }
  bool rings() const override { return plane_->rings(); }
  void drain() override { plane_->drain(); }

 private:
  const std::shared_ptr<DataPlane> plane_;
  const InnerWait::Plane which_;
  InnerWaits& waits_;
  const std::shared_ptr<DeviceEvent> reached_;
  /// By lane.
  std::map<int, int> started_;
};

/// What a program does with one rank's GPU: one operation after the other. It reads what an
/// operation has unpacked when its event is there; and when it is Done it reads the result, and
/// then writes to the memory itself.
class HierarchicalProgram {
 public:
  explicit HierarchicalProgram(Rank& rank) : rank_(rank) {}

  void connect() {
    reduce_out_of_place();
    broadcast(1);
  }

  /// `later`: how long it takes to write what each operation reads.
  void run(std::chrono::milliseconds later) {
    later_ = later;
    reduce_packed();
    reduce_out_of_place();
    for (int root = 0; root < rank_.size; ++root) broadcast(root);
  }

  /// When nothing goes on any more: the number of results that are wrong, and of later values that
  /// were overwritten.
  int count_wrong() {
    std::deque<Bytes> found;
    for (const std::byte* place : reused_) {
      at_done_.read(place, found.emplace_back(kReducedBytes));
    }
    for (UserStream* stream : {&producer_, &at_event_, &at_done_}) stream->finish();
    auto wrong = std::ranges::count_if(found, [](const Bytes& b) { return b != later_values(); });
    for (const Result& result : results_) {
      const std::string error = gpus::find_error(result.collective, result.inputs, result.values);
      if (!error.empty()) ++wrong;
    }
    return static_cast<int>(wrong);
  }

 private:
  struct Result {
    Collective collective;
    std::vector<Bytes> inputs;
    Bytes values = Bytes(kReducedBytes);
  };

  Collective prepare(CollectiveKind kind, int root = 0) {
    Collective c = gpus::collective_on(rank_, next_++, kReduced);
    c.kind = kind;
    c.dtype = DataType::Int32;
    c.root_member = root;
    c.input = c.output = memory();
    return c;
  }

  std::byte* memory() {
    memory_.push_back(gpus::cuda_memory(rank_.device, kReducedBytes));
    return memory_.back().get();
  }

  void reduce_packed() {
    Collective c = prepare(CollectiveKind::Allreduce);
    std::byte* const tensor = memory();
    c.pack = {{tensor, c.output, kReduced}};
    c.unpack = {{c.output, tensor, kReduced}};
    operate(c, tensor, [&](const Operation& operation) {
      at_event_.wait_for(*operation.issued());
      read(at_event_, c, tensor);
    });
    reuse(c.output);
    read(at_done_, c, tensor);
  }

  void reduce_out_of_place() {
    Collective c = prepare(CollectiveKind::Allreduce);
    std::byte* const input = memory();
    c.input = input;
    operate(c, input);
    reuse(input);
    read(at_done_, c, c.output);
    reuse(c.output);
  }

  /// The root has nothing to read.
  void broadcast(int root) {
    const Collective c = prepare(CollectiveKind::Broadcast, root);
    operate(c, c.output);
    if (root != rank_.rank) read(at_done_, c, c.output);
    reuse(c.output);
  }

  /// Until it is Done. This rank's input is written to `from`.
  void operate(Collective c, void* from,
               const std::function<void(const Operation&)>& when_issued = nullptr) {
    producer_.dawdle(later_);
    producer_.write(from, gpus::inputs_of(c, c.sequence)[static_cast<std::size_t>(rank_.rank)]);
    c.ready.push_back(producer_.now());
    const auto operation = rank_.plane.start(c).value();
    bool was_issued = when_issued == nullptr;
    bool done = false;
    while (!done) {
      done = operation->progress().value() == Operation::Progress::Done;
      if (!was_issued && operation->issued() != nullptr) {
        when_issued(*operation);
        was_issued = true;
      }
      if (!done) rank_.idle();
    }
  }

  void read(UserStream& stream, const Collective& c, const void* from) {
    Result& result = results_.emplace_back(Result{c, gpus::inputs_of(c, c.sequence)});
    stream.read(from, result.values);
  }

  static Bytes later_values() { return Bytes(kReducedBytes, std::byte{7}); }
  void reuse(void* place) {
    at_done_.write(place, later_values());
    reused_.push_back(static_cast<std::byte*>(place));
  }

  Rank& rank_;
  std::chrono::milliseconds later_{0};
  std::uint64_t next_ = 0;
  UserStream producer_{rank_.device}, at_event_{rank_.device}, at_done_{rank_.device};
  std::vector<std::shared_ptr<std::byte>> memory_;
  std::deque<Result> results_;
  std::vector<const std::byte*> reused_;
};

struct Outcome {
  int wrong = 0;
  std::set<InnerWait> waits;
};

/// `leaver` leaves out one of its waits. Its GPU is the slowest, so that what it does not wait for
/// comes late.
Outcome run_between_hosts(std::uint64_t seed, int leaver, std::optional<InnerWait> left_out) {
  const auto size = static_cast<int>(kHosts.size());
  std::atomic<int> wrong = 0;
  InnerWaits waits(left_out);
  const auto far_hub = InprocDataHub::create(size);
  std::array<Doorbell, kHosts.size()> doorbells;
  gpus::Options options = gpus::with_patience();
  options.doubles.seed = seed;
  options.doubles.slow_device = leaver;
  options.wrap_plane = [&](int rank,
                           std::shared_ptr<DataPlane> near) -> std::shared_ptr<DataPlane> {
    std::shared_ptr<DataPlane> far = std::make_shared<StagedDataPlane>(
        far_hub->connect(rank, doorbells[static_cast<std::size_t>(rank)]), rank);
    if (rank == leaver) {
      near = std::make_shared<WatchedData>(std::move(near), InnerWait::Plane::Near, waits, rank);
      far = std::make_shared<WatchedData>(std::move(far), InnerWait::Plane::Far, waits, rank);
    }
    return std::make_shared<HierarchicalDataPlane>(
        std::move(near), std::move(far), std::vector<int>(kHosts.begin(), kHosts.end()),
        HierarchicalOptions());
  };
  gpus::run(
      size,
      [&](Rank& rank) {
        const bool leaves = rank.rank == leaver;
        HierarchicalProgram program(rank);
        program.connect();
        if (leaves) waits.begin();
        program.run(std::chrono::milliseconds(leaves ? 8 : 2));
        while (leaves && waits.goes_on()) rank.idle();
        rank.plane.drain();
        wrong += program.count_wrong();
      },
      options);
  EXPECT_EQ(doubles::calls("ncclCommAbort"), 0);
  return {wrong, waits.noted()};
}

/// Of each rank: from the packing of five operations on, two all-reduces, three broadcasts, and one
/// unpacking.
constexpr std::array kWaits = {5 * 2 + 2 * 4 + (3 + 2 + 3) + 2, 5 * 2 + 2 * 3 + (2 + 3 + 2) + 2,
                               5 * 2 + 2 * 3 + (2 + 2 + 2) + 2};

class HierarchicalWaits : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Ranks, HierarchicalWaits, ::testing::Range(0, 3),
                         ::testing::PrintToStringParamName());

TEST_P(HierarchicalWaits, AreAllNeeded) {
  const int leaver = GetParam();
  const std::set<InnerWait> noted = run_between_hosts(1, leaver, std::nullopt).waits;
  const std::vector<InnerWait> waits(noted.begin(), noted.end());
  const auto run = [&](std::uint64_t seed, std::optional<std::int64_t> i) {
    std::optional<InnerWait> left_out;
    if (i) left_out = waits[static_cast<std::size_t>(*i)];
    return run_between_hosts(seed, leaver, left_out).wrong;
  };
  expect_right_with_all(run);
  EXPECT_EQ(std::ssize(waits), kWaits[static_cast<std::size_t>(leaver)]);
  for (const std::int64_t i : find_not_missed(std::ssize(waits), run)) {
    ADD_FAILURE() << "nobody misses " << to_string(waits[static_cast<std::size_t>(i)]);
  }
}

}  // namespace
}  // namespace kolo::core
