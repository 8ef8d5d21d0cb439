#pragma once

/// Makes the gradients of all ranks one, while backward runs.

#include <kolo/distributed_optimizer.h>
#include <torch/csrc/autograd/function.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "context/context.h"

namespace kolo {

/// Works in *rounds*. In a round, gradients are reduced as they appear; at its end the ranks exchange
/// a *closing word*, which says who has a gradient for what, and every rank contributes to each
/// parameter that any rank has one for. All ranks run the same rounds:
///
///   event                               what follows
///   ----------------------------------  -----------------------------------------------------------
///   a gradient appears in a backward    its all-reduce starts. If it has already run in this round
///   that synchronises                   (a backward inside a backward), it is left for the next one
///   ... in one that does not            it is fresh, until a later round takes it
///   that backward ends                  the round closes: fresh gradients start, words are exchanged,
///                                       parameters that only others have contribute what they hold,
///                                       everything is waited for. Another round follows if any rank
///                                       has left a gradient for it
///   ... or is ended by an exception     the same, so that no rank waits; the word says so, and the
///                                       other ranks' backward throws
///   step() with fresh gradients, or     as at the end of a backward
///   with no round since the last step
///
/// The closing word carries step and round. Ranks that ran different numbers of backward passes meet
/// in a round with different ones, and all throw.
class DistributedOptimizer::Reducer : public std::enable_shared_from_this<Reducer> {
 public:
  using NamedParameters = std::vector<std::pair<std::string, torch::Tensor>>;

  /// Collective: throws on all ranks when their parameters differ.
  Reducer(NamedParameters parameters, const DistributedOptimizerOptions& options);
  ~Reducer();

  /// Has the gradients of `parameters` reported. Apart from the constructor because the hooks need the
  /// shared_ptr.
  void watch();

  /// Runs `inner_step`, after reducing what is still local; unless that step computes its gradients by
  /// a closure, which then ends with after_closure().
  torch::Tensor step(bool with_closure, const std::function<torch::Tensor()>& inner_step);
  /// Reduces what is still local. Gives the mean of the ranks' losses.
  torch::Tensor after_closure(const torch::Tensor& loss);

  void enter_no_sync() { ++no_sync_; }
  void leave_no_sync() { --no_sync_; }

  double exposed_seconds() const { return exposed_.count(); }

 private:
  class Backward;
  class BeforeHook;
  class AfterHook;

  struct Parameter {
    std::string name;
    torch::Tensor tensor;
    /// Kept alive, with our hooks on it.
    std::shared_ptr<torch::autograd::Node> accumulator;
    /// Holds a gradient that no round has taken.
    bool fresh = false;
    /// The gradient of this round, and its all-reduce.
    torch::Tensor reducing;
    std::optional<Work> work;
    /// Has been reduced, and maybe not been zeroed since.
    bool reduced = false;
  };

  struct Word;

  void before_gradient(std::size_t index);
  void after_gradient(std::size_t index, const torch::Tensor& incoming);
  std::shared_ptr<Backward> current_backward();
  void end_backward(const Backward& backward, bool failed);

  void reduce_local();
  void require_hooks() const;
  void begin_round(bool failed);
  void finish_rounds();
  bool finish_round(std::string& error);
  void start(Parameter& parameter);
  void finish(Parameter& parameter, std::string& error);
  Work say(const Word& word) const;
  std::vector<Word> hear(Work work) const;
  std::string disagreement(const std::vector<Word>& words) const;
  void record(std::string_view what, core::Clock::time_point begin);

  const std::shared_ptr<core::Context> context_;
  const DistributedOptimizerOptions options_;
  using Id = std::pair<std::uint32_t, std::int64_t>;
  /// Process set and number in it: the same on all ranks, and another one for each optimizer.
  const Id id_;
  /// Of the names of this optimizer's operations.
  const std::string prefix_;
  /// A process that is alone has nothing to reduce.
  const bool alone_;
  std::vector<Parameter> parameters_;
  std::weak_ptr<Backward> backward_;
  /// Of the round that has begun last: all ranks' closing words.
  std::optional<Work> words_;
  std::optional<core::Timeline::Track> track_;

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
