#pragma once

/// The operations of the hierarchical data plane: one function begins each.

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <vector>

#include "data/data_plane.h"

namespace kolo::core {

/// How the members of an operation are spread over hosts. Members by index.
struct HostLayout {
  HostLayout(const Collective& collective, const std::vector<int>& host_of_rank);

  const std::vector<int>& own() const { return hosts[own_host]; }
  bool one_member_each() const { return hosts.size() == host_of.size(); }

  /// Of each host, in the order of their first members, its members in ascending order.
  std::vector<std::vector<int>> hosts;
  /// Of each member.
  std::vector<std::size_t> host_of;
  std::size_t own_host = 0;
};

/// Near steps of a chunk, at most.
constexpr std::size_t kNearTurns = 2;

/// What goes by order on a GPU, each by its own. Lane 0 is left to who uses the near plane besides.
enum class GpuLane : int { Packing = 1, FirstTurn, SecondTurn, Alone, Unpacking };

/// In which order the operations of a channel begin their near steps, where the near plane goes by
/// order: for each of the turns an operation begins the steps of its chunks one after the other, and
/// the next operation those of its own when it has begun all. So the order does not depend on when
/// steps end, which differs between members.
class NearOrder {
 public:
  std::uint64_t take_number() { return next_number_++; }
  bool has_turn(std::size_t turn, std::uint64_t number) const { return turns_[turn] == number; }
  void pass_turn(std::size_t turn) { ++turns_[turn]; }

  /// What an operation that will not pass its turns leaves to the others. The first failure lasts.
  void fail(const Status& failure) {
    if (failure_.ok()) failure_ = failure;
  }
  const Status& failure() const { return failure_; }

 private:
  std::uint64_t next_number_ = 0;
  std::array<std::uint64_t, kNearTurns> turns_{};
  Status failure_;
};

/// What an operation gets from its plane, which outlives it.
struct HierarchicalSetup {
  DataPlane& near;
  DataPlane& far;
  HostLayout layout;
  std::int64_t chunk_bytes = 0;
  /// Null where the near plane tells operations apart by their numbers.
  std::shared_ptr<NearOrder> order = nullptr;
  /// This operation's, in that order.
  std::uint64_t number = 0;
};

StartedOperation start_hierarchical_allreduce(const HierarchicalSetup& setup,
                                              const Collective& collective);
StartedOperation start_hierarchical_broadcast(const HierarchicalSetup& setup,
                                              const Collective& collective);

/// Either of these, on a GPU's memory.
StartedOperation start_hierarchical_on_gpu(const HierarchicalSetup& setup,
                                           const Collective& collective);

/// The number that a chunk has on the far plane: the same as that of a chunk that begins after this
/// one has ended. Slices are reduced at the same time by different members.
std::uint64_t far_number(const Collective& collective, std::int64_t chunk, std::size_t slice = 0);

/// What this member does for the chunks of an operation.
class HierarchicalSteps {
 public:
  /// An operation of one of the two planes.
  struct Step {
    DataPlane* plane = nullptr;
    Collective collective;
    /// Of a near one.
    std::optional<std::size_t> turn = std::nullopt;
  };

  HierarchicalSteps(const HierarchicalSetup& setup, const Collective& collective);
  virtual ~HierarchicalSteps() = default;
  HierarchicalSteps(const HierarchicalSteps&) = delete;
  HierarchicalSteps& operator=(const HierarchicalSteps&) = delete;

  const HierarchicalSetup& setup() const { return setup_; }
  std::int64_t chunks() const { return chunks_; }
  /// Near steps that each chunk has.
  virtual std::size_t near_turns() const = 0;
  /// One after the other. The first one waits for what makes the memory ready.
  std::vector<Step> of(std::int64_t chunk) const;
  /// Members, by index, for which a step waits: of another host all, since one speaks for it.
  std::vector<int> missing(const Step& step, const Operation& operation) const;

 protected:
  struct Elements {
    std::byte* begin = nullptr;
    std::int64_t count = 0;
  };

  virtual std::vector<Step> make(std::int64_t chunk) const = 0;

  const Collective& collective() const { return collective_; }
  bool is_alone_on_host() const { return setup_.layout.own().size() == 1; }
  std::int64_t element_bytes() const { return element_bytes_; }
  Elements elements_of(std::int64_t chunk) const;
  /// Where an all-reduce reads what it writes to these.
  const std::byte* input_of(Elements elements) const;

  /// Among the members of this host. `turn`: which of a chunk's two.
  Step near_step(CollectiveKind kind, Elements elements, std::int64_t chunk,
                 std::size_t turn) const;
  /// Among one member of each host, in ascending order.
  Step far_step(CollectiveKind kind, Elements elements, std::int64_t chunk,
                const std::vector<int>& members, std::size_t slice) const;

 private:
  Collective among(const std::vector<int>& members, CollectiveKind kind, Elements elements) const;

  const HierarchicalSetup setup_;
  const Collective collective_;
  const std::int64_t element_bytes_;
  /// Elements of a chunk.
  const std::int64_t chunk_count_;
  const std::int64_t chunks_;
};

/// Takes chunks through their steps.
class HierarchicalOperation final : public Operation {
 public:
  static StartedOperation begin(std::unique_ptr<const HierarchicalSteps> steps);

  /// Before it is Done, peers that wait for this member's next steps fail.
  ~HierarchicalOperation() override;
  HierarchicalOperation(const HierarchicalOperation&) = delete;
  HierarchicalOperation& operator=(const HierarchicalOperation&) = delete;

  Result<Progress> progress() override;
  std::vector<int> missing() const override;

 private:
  /// A chunk under way.
  struct Flight {
    std::int64_t chunk = 0;
    std::vector<HierarchicalSteps::Step> steps;
    std::size_t next = 0;
    /// The step before `next`, if it is under way.
    std::unique_ptr<Operation> operation = nullptr;

    bool landed() const { return next == steps.size() && operation == nullptr; }
  };

  explicit HierarchicalOperation(std::unique_ptr<const HierarchicalSteps> steps)
      : steps_(std::move(steps)) {}

  /// Whether anything moved.
  Result<bool> advance(Flight& flight);
  bool may_begin(const Flight& flight) const;
  void note_begun(const HierarchicalSteps::Step& step);
  bool pass_turns();

  const std::unique_ptr<const HierarchicalSteps> steps_;
  bool over_ = false;
  /// Where there is an order: how many chunks have begun each of their near steps, and which turns
  /// were passed on.
  std::array<std::int64_t, kNearTurns> begun_{};
  std::array<bool, kNearTurns> passed_{};
  std::int64_t next_chunk_ = 0;
  std::deque<Flight> flights_;
};

}  // namespace kolo::core
