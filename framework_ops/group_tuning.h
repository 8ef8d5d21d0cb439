#pragma once

/// Finds the groups of an optimizer's gradients from what its first rounds show.

#include <kolo/ops.h>
#include <torch/types.h>

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "context/context.h"
#include "engine/group_planner.h"
#include "engine/transfer_cost.h"

namespace kolo {

/// What a round shows, on the clock of this rank.
struct RoundTimes {
  /// By parameter: the time from the begin of backward until its gradient was there, if one came.
  std::vector<std::optional<core::Clock::duration>> ready;
  /// By group of the plan.
  std::vector<core::OperationTimes> groups;
};

/// Counts the rounds that all ranks have accepted, and so is in the same state on all of them:
///
///   round  what follows when it is accepted
///   -----  ------------------------------------------------------------------------------------------
///   1      nothing: much in it happens for the first time, and takes longer than it will ever again
///   2      times are noted
///   3      the same. Then the first rank of the process set finds the groups, and sends them to all
///   4      all have taken part in that broadcast, as their words tell: its groups are adopted
///
/// The groups that suit one rank are right for all: how gradients are grouped changes no bit of their sums,
/// which are taken in rank order by one kernel, whatever lies beside them.
///
/// That is so on CPUs. What a GPU's sums come to depends on how NCCL cuts a group, and the host's clock does not
/// see the GPU's time: so with any parameter on a GPU groups are cut by size, and only their order is measured.
///
/// When a gradient is ready is the lesser of both rounds' times, as what disturbs a measurement only makes it
/// longer. What groups cost is fitted to the times in which any was under way with all ranks there: waiting
/// for a rank that is late is no cost.
class GroupTuning {
 public:
  GroupTuning(const core::Context& context, const std::vector<torch::Tensor>& parameters);

  /// By size, with the last parameter first: as gradients most likely appear.
  const core::Grouping& first_groups() const { return first_groups_; }

  /// A round was accepted. Gives the groups once they are to be adopted. `send`: a broadcast from the first
  /// rank.
  std::optional<core::Grouping> accept(const RoundTimes& times, bool is_first_rank,
                                       const std::function<Work(const torch::Tensor&)>& send);

  /// Into the log and the timeline, if this rank has found the groups: which, and why.
  void tell(core::Context& context, const std::string& optimizer,
            const std::optional<core::Timeline::Track>& track) const;

 private:
  struct Choice {
    core::Grouping groups;
    std::string_view chosen_by;
    core::TransferCost cost;
    /// Seconds from the last gradient to the last result, as predicted for the first groups and for these.
    double exposed_before = 0;
    double exposed = 0;
  };

  void note(const RoundTimes& times);
  Choice choose() const;

  /// On a GPU, no costs are known.
  const bool on_gpu_;
  /// Those that KOLO_FUSION_THRESHOLD gives are kept to.
  const bool fixed_sizes_;
  const core::GroupLimits limits_;
  const std::vector<core::PlannedTensor> tensors_;
  const core::Grouping first_groups_;
  int accepted_ = 0;
  /// By parameter, in seconds.
  std::vector<std::optional<double>> ready_;
  std::vector<core::Transfer> transfers_;
  std::optional<Choice> choice_;
  std::optional<Work> sent_;
};

}  // namespace kolo
