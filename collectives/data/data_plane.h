#pragma once

/// Bulk bytes between ranks: how tensors are moved and reduced.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "base/device.h"
#include "base/status.h"
#include "base/types.h"

namespace kolo::core {

/// One collective operation on memory, ready to run: the same on each member but for `member` and
/// the addresses.
struct Collective {
  CollectiveKind kind = CollectiveKind::Allreduce;  // not Barrier, nor AddProcessSet
  DataType dtype = DataType::Float32;

  /// The set's global ranks in ascending order, and the index of this rank among them.
  std::vector<int> ranks;
  int member = 0;

  /// Identifies the operation among those in flight: members start a channel's operations in the
  /// same order, numbered from 0.
  ChannelId channel = kWorldChannel;
  std::uint64_t sequence = 0;

  /// Allreduce: this member comes without a contribution, and without memory, to tell the others
  /// so (see DataPlane::carries_declines()).
  bool declined = false;

  /// Where its memory is: of a Cuda operation, on the GPU that this rank uses.
  DeviceType device = DeviceType::Cpu;
  /// Cuda: what must have happened before the GPU may touch its memory.
  std::vector<std::shared_ptr<DeviceEvent>> ready;
  /// Cuda: elements that are brought together before the operation, and taken apart after it.
  std::vector<DeviceCopy> pack, unpack;
  /// Cuda: whether device_times() will be asked for.
  bool timed = false;
  /// Cuda: of a channel's operations only those of one lane, which have the same members, start in
  /// the same order on all of them.
  int lane = 0;

  /// Allreduce: in place on `output`; a Cuda one reads `input`, which may be the same.
  /// Reducescatter: the bits of an all-reduce's. Each input is multiplied by `prescale`, the result
  /// by `postscale` (both 1 for integers and Bool). Average divides by the number of members.
  ReduceOp op = ReduceOp::Sum;
  double prescale = 1.0;
  double postscale = 1.0;

  /// Broadcast: in place on `output`; the index of the member that gives.
  int root_member = 0;

  /// In member order, elements that
  /// Allgather: each member contributes; this one's are read from `input`.
  /// Reducescatter: each member gets of the reduced `input`s; this one's are written to `output`.
  /// Alltoall: come from each member. It differs between members, as do `splits`: elements of
  /// `input` that go to each. What is split off for a member is what that one counts.
  std::vector<std::int64_t> counts;
  std::vector<std::int64_t> splits;
  /// Of these three kinds it stays as it is.
  const void* input = nullptr;
  /// Cuda Reducescatter, a Product with a `prescale`: memory for `count` elements in between.
  void* scratch = nullptr;

  /// `count` elements: the sum of `counts` where there are any.
  void* output = nullptr;
  std::int64_t count = 0;
};

/// What one member's `input` and `output` hold.
std::int64_t input_count(const Collective& collective);
std::int64_t output_count(const Collective& collective);

/// The sum of the first `members` of them.
std::int64_t elements_before(const std::vector<std::int64_t>& counts, std::size_t members);

/// A collective under way: a state machine that never blocks.
class Operation {
 public:
  enum class Progress { Waiting, Moved, Done };

  virtual ~Operation() = default;

  /// Does what can be done now. Not called again after a failure, nor after Done unless it has begun
  /// again.
  virtual Result<Progress> progress() = 0;

  /// Once Done: begins as another operation of its channel, on other memory, all else being the
  /// same. False where it cannot, and is to be begun anew.
  virtual bool begin_again(std::uint64_t /*sequence*/, void* /*output*/) { return false; }

  /// Members, by index, from which nothing has come yet.
  virtual std::vector<int> missing() const = 0;

  /// Once Done: a member has declined, so all have come, and nothing was reduced.
  virtual bool declined() const { return false; }

  /// Cuda: everything is in the GPU's queue, and this is when it will have run. Null before, and of
  /// operations of the host.
  virtual std::shared_ptr<DeviceEvent> issued() const { return nullptr; }

  /// Cuda, once Done: known where the operation is `timed`.
  virtual std::optional<DeviceTimes> device_times() const { return std::nullopt; }
};

using StartedOperation = Result<std::unique_ptr<Operation>>;

/// Memory of this process, aligned for every dtype and vector register.
Result<std::shared_ptr<std::byte>> allocate_memory(std::size_t bytes);

/// Used by one thread at a time. Any number of operations may be in flight.
class DataPlane {
 public:
  virtual ~DataPlane() = default;

  /// Begins the operation. Its memory must stay valid until it is Done.
  virtual StartedOperation start(const Collective& collective) = 0;

  /// Memory of the device on which collectives are fastest; unless a plane knows better, any of the
  /// host. It may outlive the plane. Thread-safe.
  virtual Result<std::shared_ptr<std::byte>> allocate(DeviceType device, std::size_t bytes);

  /// Whether members of an all-reduce on the CPU among these ranks can decline it.
  virtual bool carries_declines(const std::vector<int>& /*ranks*/) const { return false; }

  /// No operation of this channel is in flight here, and none will be started by any member: what
  /// it had can go. Its other members are told at other times, those with nothing to do late.
  virtual void end_channel(ChannelId /*channel*/) {}

  /// Whether the progress of all that is in flight rings the coordinator's doorbell; if not,
  /// progress() must be called.
  virtual bool rings() const = 0;

  /// Returns when no GPU is left that still works on memory of operations that were given up.
  virtual void drain() {}
};

}  // namespace kolo::core
