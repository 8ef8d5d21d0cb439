#pragma once

#include <kolo/ops.h>
#include <torch/nn/module.h>
#include <torch/optim/optimizer.h>

#include <initializer_list>
#include <memory>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

namespace kolo {

namespace detail {
class OptionsMirror;
class StateMirror;
}

struct DistributedOptimizerOptions {
  /// How gradients of all ranks become one. With an op other than Average, a second backward before
  /// the gradients are zeroed is an error: only a mean leaves what was already reduced as it is.
  ReduceOp op = ReduceOp::Average;
  /// Gradients accumulate locally until this many backward passes have run since the last step().
  int backward_passes_per_step = 1;
  ProcessSet process_set = {};
  /// In messages and in the timeline, the same on all ranks; otherwise "optimizer0", "optimizer1", …
  std::string name = {};
};

/// What messages call an optimizer's parameters.
class ParameterNames {
 public:
  using Dict = torch::OrderedDict<std::string, torch::Tensor>;

  /// `module->named_parameters()`.
  ParameterNames(Dict parameters) : modules_{std::move(parameters)} {}
  /// Of several modules: `{encoder->named_parameters(), decoder->named_parameters()}`. Names begin with
  /// "module0.", "module1.", …
  ParameterNames(std::initializer_list<Dict> modules) : modules_(modules) {}
  ParameterNames(std::vector<Dict> modules) : modules_(std::move(modules)) {}

  const std::vector<Dict>& modules() const { return modules_; }

 private:
  std::vector<Dict> modules_;
};

/// Wraps the optimizer that a program already has, and is an Optimizer itself: a loop that is right in
/// one process is right on N ranks.
///
/// `backward()` returns when the gradients are reduced over all ranks; the all-reduce of a gradient
/// starts as soon as it is computed and overlaps the rest of backward. So clipping, logging,
/// `module->zero_grad()`, several backwards before a step, and further optimizers need no ceremony.
/// A parameter without a new gradient on this rank contributes what it holds; one that got a new
/// gradient on no rank keeps what it has, and an undefined gradient stays undefined.
///
/// Gradients that the program writes itself (torch::autograd::grad(), copies of another dtype, evolution
/// strategies), instead of backward() or beside it, are reduced by
///   - synchronize(): what they hold then;
///   - the next backward(), along with its own, if they were written before it;
///   - step(), if no rank has reduced any since the last step(): what they hold then; and, with Average, those that
///     were replaced since (`mutable_grad() = other`), on all ranks or on none.
/// What was reduced may be changed in place (clipped, unscaled), on all ranks alike: step() takes it as it is. To add
/// to it what is this rank's own, call synchronize() afterwards.
///
/// Gradients lie next to each other in memory that the other ranks of the host reach: a parameter's grad() is
/// a view of it, also after zero_grad() made it undefined in between. The tensor stays the same when this memory
/// changes, once, after the fourth time that gradients were reduced; its data_ptr() does not. Clone a gradient to
/// keep its numbers.
///
/// Options may be changed on the wrapper's param_groups() or on the inner optimizer's. save() and
/// load() go to the inner optimizer, and state() is the inner one's: entries that are erased or replaced through
/// one of the two are so in the other from the next step(), inner(), save() or load() on, and not to be
/// used there before. The inner optimizer must outlive the wrapper.
///
/// Bring the parameters to their device and dtype before wrapping: backward() or step() throws when they
/// were converted later. They may be loaded later (torch::load()). One that is to be resized needs a new
/// wrapper: destroy the old one, resize, wrap anew; otherwise LibTorch's backward() complains of "an invalid
/// gradient". Sparse gradients (of an embedding, for example) become dense ones.
///
/// Not thread-safe: as with any optimizer, one thread trains, with all optimizers of a process set; two at the
/// same time are an error on all ranks, after which Kolo is of no use any more. All
/// ranks must run the same number of synchronised backward passes per step; if they do not, each gets an error
/// that says so. A rank whose backward reached no parameter takes part in step(), with what it holds. It
/// cannot do then what other ranks may have done to their averages (clipping, say): step() throws on all ranks
/// if they have. If it calls synchronize() in the place of that backward(), it has averages, too.
///
/// Options and parameters must be the same on all ranks: backward() throws on all of them when they are not
/// (KOLO_CHECK_EQUAL).
///
/// When it is destroyed, what other ranks go on to do with theirs fails.
class DistributedOptimizer : public torch::optim::Optimizer {
 public:
  /// `names`: one for each of `inner`'s parameters.
  ///
  /// Collective.
  ///
  /// @throws kolo::Error on every rank when, on any, a parameter of `inner` has no name, is no
  ///         dense floating tensor on the CPU or on local_device(), or already belongs to another
  ///         DistributedOptimizer; and when the parameters differ between ranks.
  DistributedOptimizer(torch::optim::Optimizer& inner,
                       const ParameterNames& names, DistributedOptimizerOptions options = {});
  /// Without names: messages say "group 0 parameter 3".
  explicit DistributedOptimizer(torch::optim::Optimizer& inner,
                                DistributedOptimizerOptions options = {});
  ~DistributedOptimizer() override;
  DistributedOptimizer(const DistributedOptimizer&) = delete;
  DistributedOptimizer& operator=(const DistributedOptimizer&) = delete;

  /// The inner optimizer's step, after reducing what is still local (gradients of passes under
  /// no_sync(), or of fewer passes than backward_passes_per_step). With a closure, the loss it
  /// returns is averaged over the ranks, so that optimizers that decide by it decide alike.
  torch::Tensor step(LossClosure closure = nullptr) override;

  /// Reduces over all ranks what the gradients hold now, whoever has written it, and returns when they are reduced.
  /// Needed only for gradients that no backward() has made, or that were changed since; and on a rank whose loss
  /// reaches no parameter, in the place of its backward(). With an op other than Average, gradients that were not
  /// written since they were reduced stay as they are.
  ///
  /// Collective: each rank calls it, or, where others are in backward(), that, equally often between two step().
  ///
  /// @throws kolo::Error on every rank, as backward() does.
  void synchronize();

  void save(torch::serialize::OutputArchive& archive) const override;
  void load(torch::serialize::InputArchive& archive) override;

  /// With the options as they are now, wherever they were changed last.
  torch::optim::Optimizer& inner();

  /// While it lives, backward passes accumulate locally.
  class [[nodiscard]] NoSync;
  NoSync no_sync();

  /// Seconds that backward() and step() have waited for communication since construction: what the
  /// overlap did not hide.
  double exposed_seconds() const;

 private:
  class Reducer;
  /// By the parameter's address.
  using Names = std::unordered_map<const void*, std::string>;

  DistributedOptimizer(torch::optim::Optimizer& inner, DistributedOptimizerOptions options,
                       const Names& names);
  void reconcile() const;

  torch::optim::Optimizer& inner_;
  std::unique_ptr<detail::OptionsMirror> mirror_;
  std::unique_ptr<detail::StateMirror> states_;
  std::shared_ptr<Reducer> reducer_;
};

/// May be moved, into a std::optional for example.
class DistributedOptimizer::NoSync {
 public:
  ~NoSync();
  NoSync(NoSync&&) noexcept = default;
  NoSync& operator=(NoSync&& other) noexcept;

 private:
  friend class DistributedOptimizer;
  explicit NoSync(std::shared_ptr<Reducer> reducer);

  std::shared_ptr<Reducer> reducer_;
};

}  // namespace kolo
