#pragma once

/// Makes the gradients of all ranks one, while backward runs.

#include <kolo/distributed_optimizer.h>
#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "backward_run.h"
#include "closing_word.h"
#include "context/context.h"
#include "device.h"
#include "equality_check.h"
#include "gradient_hooks.h"
#include "gradient_plan.h"
#include "group_tuning.h"
#include "optimizer_family.h"
#include "options_mirror.h"
#include "owned_plan.h"
#include "round_gradient.h"

namespace kolo {

namespace detail {
struct Call;
}

/// Works in *rounds*. All ranks run the same rounds, and in each round the same operations: those of the
/// plan (gradient_plan.h), group by group, and a *closing word*, which says who has a new gradient for
/// what; once, between two rounds, the groups are sent. They are submitted in this order, so nothing has to
/// be negotiated.
///
///   event                               what follows
///   ----------------------------------  -----------------------------------------------------------
///   a gradient appears in a backward    it is fresh. Groups start in the plan's order, each when the
///   that synchronises                   gradients that can come have come
///   ... again (a backward inside a      it is left for the next round, also if its group has not started:
///   backward)                           what is added to what must not depend on the groups
///   ... in one that does not            it is fresh, until a later round takes it
///   that backward ends, or another      the round closes: the groups that are left start, with what the
///   rank has closed the round           parameters hold (nothing: zeros), the word is said, everything
///   (optimizer_family.h)                is waited for. Another round follows if any rank has left a
///                                       gradient for it
///   ... or is ended by an exception     the same, so that no rank waits; the word says so, and the
///                                       other ranks' backward throws. All that have heard such a word then say
///                                       in one more operation what they know of it
///   synchronize()                       as at the end of a backward; all that gradients hold is given
///   step() with fresh gradients, or     as at the end of a backward. If others are in one, this rank has
///   with no round since the last step   come late, and step() needs a word from all (optimizer_family.h)
///   step() with a gradient that the     the same, if the op is Average: whether it was computed from averages
///   program has replaced since the      on all ranks or on this one's data, its mean is right. With another
///   round                               op it throws, as when checks fail
///   step() whose checks fail            as for an exception: the word says so
///   all words of a round are there      a parameter that any rank had a new gradient for gets the
///                                       result; the others keep what they had. The round is refused on
///                                       all ranks, by an exception, if any word tells of trouble or of
///                                       another step or round, or of other options or parameters
///                                       (equality_check.h); step() then throws, too, until a round
///                                       was accepted
///   a rank leaves, or destroys its      operations that it has not submitted fail on the others
///   optimizer
///   memory does not suffice to find     the same: this rank's optimizer leaves, and throws from here on
///   groups, or to adopt them
///
/// What a program writes to a gradient itself is a new gradient, too; what it does to averages is not, and looks
/// the same. Of gradients that autograd has not added to since the last round, these are given to a round:
///
///   op, and where the round is closed   given
///   ----------------------------------  -----------------------------------------------------------
///   Average, in synchronize(), or in    all that are defined: the mean of what is the same is the same
///   step() without a round before it
///   Average, elsewhere                  those that were written to since the last round or step
///   others, in synchronize(), or in     the same
///   the first round after a step
///   others, elsewhere                   those that are another tensor, or have other memory: what was
///                                       written to may be sums that were scaled
///
/// Counting the rounds that are accepted:
///
///   the 1st                             nothing: what happens for the first time takes longer
///   the 2nd and the 3rd                 the first rank notes what they took. After the 3rd it finds the
///                                       groups that end earliest, and sends them (group_tuning.h)
///   the 4th                             all adopt these groups
///
/// The closing word of one round is what allows the next one to start without asking: who has said it
/// will run the same plan again. So by the words of the fourth round everybody has taken part in
/// sending the groups.
///
/// LibTorch gives each device a thread, so a backward that reaches parameters on several of them tells of their
/// gradients at the same time: what the engine calls, and what closes a round, excludes each other. Nothing waits
/// for a GPU on the host: groups follow the streams in which their gradients were computed, and at the end of
/// backward the caller's stream waits for the groups.
class DistributedOptimizer::Reducer final : public GradientListener,
                                            public BackwardRun::Owner,
                                            public OptimizerFamily::Member,
                                            public std::enable_shared_from_this<Reducer> {
 public:
  using NamedParameters = std::vector<std::pair<std::string, torch::Tensor>>;

  /// Collective: throws on all ranks when their parameters differ, or when one of them has a `refusal`: a
  /// reason why its optimizer cannot be wrapped.
  /// `mirror`: of the optimizer's own options.
  Reducer(const NamedParameters& parameters, std::string refusal,
          const DistributedOptimizerOptions& options, const detail::OptionsMirror& mirror);
  ~Reducer() override;

  /// Has the gradients of `parameters` reported. Apart from the constructor because the hooks need the
  /// shared_ptr.
  void watch();

  /// Runs `inner_step`, after reducing what is still local; unless that step computes its gradients by
  /// a closure, which then ends with after_closure().
  torch::Tensor step(bool with_closure, const std::function<torch::Tensor()>& inner_step);
  /// Reduces what is still local. Gives the mean of the ranks' losses.
  torch::Tensor after_closure(const torch::Tensor& loss);

  /// Reduces what the gradients hold.
  void synchronize();

  /// Runs `check`. If it throws, the other ranks are told in a round of their own, and it throws here.
  void check_step(const std::function<void()>& check);

  void enter_no_sync() { ++no_sync_; }
  void leave_no_sync() { --no_sync_; }

  double exposed_seconds() const { return exposed_.count(); }

 private:
  class Waiting;

  /// Of the round under way, by group of the plan.
  struct Group {
    std::size_t expected = 0;
    std::optional<Work> work;
    /// Null when nobody wants to know.
    std::shared_ptr<core::OperationTimes> times;
  };

  std::vector<torch::Tensor> tensors() const;
  std::string make_gradients(const NamedParameters& parameters);
  void make_equality_check(const detail::OptionsMirror& mirror);
  void adopt(const core::Grouping& groups);
  void require_plan() const;
  void leave();

  bool on_the_wire(std::size_t index) const;
  torch::Tensor before_gradient(std::size_t index, const torch::Tensor& incoming) override;
  void after_gradient(std::size_t index) override;
  void accumulator_changed(std::size_t index, bool misses_after) override;
  void arrive(std::size_t index, const BackwardRun& backward);
  std::shared_ptr<BackwardRun> current_backward();
  BackwardRun::Id id() const override { return id_; }
  void end_backward(const BackwardRun& backward, bool failed) override;
  void call_others() override;
  void finish_backward() override;

  bool closed() const override { return words_.has_value(); }
  void join_round(ClosedIn where) override;
  void finish_rounds(ClosedIn where) override;
  std::optional<int> latecomer() const override { return latecomer_; }
  std::optional<std::size_t> altered() override;
  std::string name_of(std::size_t parameter) const override { return names_[parameter]; }
  void settle_latecomer(const std::string& error) override;

  void reduce_local();
  void tell_failure();
  void require_fit() const;
  void require_fit(std::size_t index) const;
  void require_results() const;
  bool any_replaced_average() const;
  void expect_gradients();
  void start_groups();
  void start(std::size_t group, ClosedIn where);
  RoundGradient::Given given(ClosedIn where) const;
  void close_round(bool failed, ClosedIn where);
  bool finish_round(std::string& error);
  std::string ask_for_reason(const std::vector<ClosingWord>& words);
  void follow(const std::vector<ClosingWord>& words);
  void improve_plan(int first_rank);
  Work submit(detail::Call call, const torch::Tensor& input) const;
  std::string words_for(std::string_view where) const;
  std::optional<pid_t> caller() const;
  void record(std::string_view what, core::Clock::time_point begin);

  const std::shared_ptr<core::Context> context_;
  const DistributedOptimizerOptions options_;
  const OptimizerFamily::Place place_;
  /// Until it leaves.
  std::optional<OwnedPlan> owned_plan_;
  const BackwardRun::Id id_;
  /// Of the names of this optimizer's operations.
  const std::string prefix_;
  std::mutex mutex_;
  /// By parameter.
  std::vector<RoundGradient> gradients_;
  std::vector<std::shared_ptr<GradientWatch>> watches_;
  bool on_host_ = true;
  std::vector<std::string> names_;
  std::unique_ptr<GradientPlan> plan_;
  std::vector<Group> groups_;
  /// Those before it have started in this round.
  std::size_t next_group_ = 0;
  /// In which its gradients have come.
  detail::GpuStreams streams_;
  std::weak_ptr<BackwardRun> backward_;
  /// The same, as long as it has not closed its round.
  const BackwardRun* open_backward_ = nullptr;
  std::thread::id backward_thread_;
  /// The parameter whose gradient came last.
  std::size_t last_gradient_ = 0;
  /// Parameters of which a gradient comes in it that is not reported once it is stored.
  std::vector<std::size_t> unreported_;
  /// Of the round that is under way or closed: its own word, and all ranks'.
  ClosingWord word_;
  std::optional<Work> words_;
  std::optional<core::Timeline::Track> track_;

  /// Until the plan has the groups that it will keep.
  std::unique_ptr<GroupTuning> tuning_;
  /// Null where it is turned off, or this process is alone.
  std::unique_ptr<EqualityCheck> equality_;
  /// When the backward began that has closed the last round, unless step() has.
  std::optional<core::Clock::time_point> began_;
  /// What this rank knows of the exception that it tells the others of.
  std::string reason_;
  /// Why the last round was not to be used; empty when it was.
  std::string refused_;
  /// Of the last round: see OptimizerFamily.
  std::optional<int> latecomer_;

  /// In another optimizer's synchronize(): this one's has nothing to do.
  bool synchronized_ = false;

  /// The thread that has called step() last.
  pid_t trainer_ = 0;
  int no_sync_ = 0;
  /// Backward passes since the last step, and whether any has left something local.
  int passes_ = 0;
  bool local_ = false;
  std::int64_t step_ = 0;
  /// Rounds since the last step.
  std::int64_t round_ = 0;
  std::chrono::duration<double> exposed_{0};
};

}  // namespace kolo
