#pragma once

/// The operations of the shared-memory data plane: one function begins each.

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "data/data_plane.h"
#include "data/shm_data.h"
#include "data/shm_exchange.h"
#include "data/shm_stages.h"

namespace kolo::core {

/// What an operation gets from its plane, which outlives it.
struct ShmSetup {
  const shm::Host& host;
  ShmExchange& exchange;
  ShmStages& stages;
  const ShmDataOptions& options;
};

/// Every member's vector to every other, within signals; of many members, to the first one, and what
/// that makes of them to every other. For few bytes.
StartedOperation start_flat_allreduce(const ShmSetup& setup, const Collective& collective);
/// Each member reduces a slice of the vector for all.
StartedOperation start_sliced_allreduce(const ShmSetup& setup, const Collective& collective);
StartedOperation start_shm_broadcast(const ShmSetup& setup, const Collective& collective);
StartedOperation start_shm_allgather(const ShmSetup& setup, const Collective& collective);
StartedOperation start_shm_alltoall(const ShmSetup& setup, const Collective& collective);
StartedOperation start_shm_reducescatter(const ShmSetup& setup, const Collective& collective);

class ShmOperation : public Operation {
 public:
  static StartedOperation begin(std::unique_ptr<ShmOperation> operation);

  /// Before it is Done, tells the others. They may still write to this rank's memory for a moment.
  ~ShmOperation() override;
  ShmOperation(const ShmOperation&) = delete;
  ShmOperation& operator=(const ShmOperation&) = delete;

  Result<Progress> progress() final;
  std::vector<int> missing() const override;
  bool declined() const final { return declined_; }

 protected:
  ShmOperation(const ShmSetup& setup, const Collective& collective);

  /// Does a bounded piece of what can be done now; Done when the others need nothing more of this
  /// member, either.
  virtual Result<Progress> advance() = 0;

  /// Once Done, of an operation without a stage: is as after the constructor.
  void reset(std::uint64_t sequence, void* output);

  const ShmSetup& setup() const { return setup_; }
  const Collective& collective() const { return collective_; }
  int members() const { return static_cast<int>(locals_.size()); }
  int self() const { return collective_.member; }
  /// Members other than this one, the next one first, so that not all begin with the same.
  const std::vector<int>& peers() const { return peers_; }
  std::int64_t bytes_of(std::int64_t count) const;

  /// What a member has told.
  const ShmMember& told_by(int member) const;
  /// Memory in a member's arena.
  std::byte* at(int member, std::uint64_t place, std::int64_t bytes) const;
  std::uint64_t place_of(const std::byte* own) const;

  void tell(int member, ShmSignal::Kind kind, std::uint64_t place = 0) const;
  void tell_quietly(int member, ShmSignal::Kind kind) const;
  void tell_result(int member, std::span<const std::byte> result) const;
  /// Tells that this member is there, and what it brings: with the bytes themselves when they are
  /// few, or nothing if it declines.
  void announce(std::span<const int> to, const void* memory, std::int64_t bytes) const;
  /// Whether all have come, and whether any of them declines, which ends the operation then.
  bool all_have_arrived() const;
  bool any_declines();
  /// Whether the member means the same operation.
  Status check_arrival(int member, std::int64_t bytes) const;

  /// A stage of its own, for as long as others may use it.
  std::byte* stage();

 private:
  int local_of(int member) const { return locals_[static_cast<std::size_t>(member)]; }
  ShmSignal signal(ShmSignal::Kind kind) const;
  bool telling() const;
  /// Waiting, unless it would be for a member with which signals are lost.
  Result<Progress> wait() const;
  /// The error of an operation that a member has given up.
  Status lost(int member) const;

  const ShmSetup setup_;
  Collective collective_;
  /// Local ranks, by member.
  std::vector<int> locals_;
  std::vector<int> peers_;
  ShmExchange::Members* told_;
  std::shared_ptr<std::byte> stage_;
  bool declined_ = false;
  bool finished_ = false;
  bool done_ = false;
};

}  // namespace kolo::core
