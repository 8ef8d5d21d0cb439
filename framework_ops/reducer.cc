#include "reducer.h"

#include <fmt/format.h>
#include <kolo/error.h>
#include <kolo/ops.h>
#include <torch/torch.h>
#include <unistd.h>

#include <algorithm>
#include <exception>
#include <utility>

#include "base/forked.h"
#include "bridge.h"
#include "global.h"
#include "same_on_all_ranks.h"
#include "wrapping_checks.h"

namespace kolo {
namespace {

using Clock = core::Clock;

/// The same on all ranks.
std::string numbered_name(const BackwardRun::Id& id) { return c10::str("optimizer", id.second / 2); }

}  // namespace

/// For other ranks, also in the rounds of the optimizer's family.
class DistributedOptimizer::Reducer::Waiting {
 public:
  /// `where`: what the program has called.
  Waiting(Reducer& reducer, std::string_view where)
      : reducer_(reducer),
        activity_(reducer.context_->waiters(), reducer.words_for(where), reducer.caller()) {}
  ~Waiting() {
    reducer_.exposed_ += Clock::now() - begin_;
    reducer_.record("wait", begin_);
  }
  Waiting(const Waiting&) = delete;
  Waiting& operator=(const Waiting&) = delete;

 private:
  Reducer& reducer_;
  const core::Waiters::Activity activity_;
  const Clock::time_point begin_ = Clock::now();
};

DistributedOptimizer::Reducer::Reducer(const NamedParameters& parameters, std::string refusal,
                                       const DistributedOptimizerOptions& options,
                                       const detail::OptionsMirror& mirror)
    : context_(detail::current_context()),
      options_(options),
      place_(OptimizerFamily::enter(context_, options.process_set)),
      owned_plan_(std::in_place, context_, options.process_set.id(), place_.plan),
      id_(options.process_set.id(), place_.plan),
      prefix_((options.name.empty() ? numbered_name(id_) : options.name) + "/") {
  if (refusal.empty()) refusal = detail::find_refusal(*context_, parameters, options);
  if (refusal.empty()) refusal = make_gradients(parameters);
  make_equality_check(mirror);
  std::vector<std::string> lines = detail::describe(parameters, options);
  lines.insert(lines.begin(),
               c10::str("KOLO_CHECK_EQUAL=", core::to_string(context_->config().check_equal)));
  detail::require_same_on_all_ranks(numbered_name(id_) + "/parameters",
                                    "the parameters of the optimizers", lines, refusal,
                                    options.process_set);
  if (core::Timeline* timeline = context_->timeline()) {
    track_ = timeline->add_track(prefix_.substr(0, prefix_.size() - 1));
  }
}

std::vector<torch::Tensor> DistributedOptimizer::Reducer::tensors() const {
  std::vector<torch::Tensor> parameters;
  for (const RoundGradient& gradient : gradients_) parameters.push_back(gradient.parameter());
  return parameters;
}

/// And their first plan. Why there is no memory for it; empty when there is.
std::string DistributedOptimizer::Reducer::make_gradients(const NamedParameters& parameters) {
  for (const auto& [name, tensor] : parameters) {
    names_.push_back(prefix_ + name);
    gradients_.emplace_back(tensor, gradients_.size());
    on_host_ = on_host_ && tensor.is_cpu();
  }
  tuning_ = std::make_unique<GroupTuning>(*context_, tensors());
  try {
    adopt(tuning_->first_groups());
  } catch (const std::exception& error) {
    return error.what();
  }
  return {};
}

void DistributedOptimizer::Reducer::make_equality_check(const detail::OptionsMirror& mirror) {
  if (context_->topology().size == 1 || context_->config().check_equal == core::CheckEqual::Off) return;
  const auto options = [&mirror] {
    EqualityCheck::Options values;
    for (const auto* of_group : mirror.in_effect()) values.push_back(values_of(*of_group));
    return values;
  };
  equality_ = std::make_unique<EqualityCheck>(
      context_, EqualityCheck::Optimizer{.prefix = prefix_,
                                         .process_set = options_.process_set,
                                         .names = names_,
                                         .parameters = tensors(),
                                         .options = options});
}

/// Gradients move to the memory of a plan of these groups, if they must.
void DistributedOptimizer::Reducer::adopt(const core::Grouping& groups) {
  const torch::NoGradGuard no_grad;
  if (plan_ != nullptr && plan_->is_cut_by(groups)) {
    plan_->cut(groups);
  } else {
    const std::unique_ptr<GradientPlan> old = std::move(plan_);
    plan_ = std::make_unique<GradientPlan>(
        context_, tensors(), groups, [this, &old](std::size_t index, const torch::Tensor& place) {
          if (old == nullptr) return;
          gradients_[index].move_to(place, *old);
          old->release(index);
        });
  }
  groups_.assign(plan_->groups().size(), Group{});
}

/// There is none when this rank could not find other groups, or adopt them.
void DistributedOptimizer::Reducer::require_plan() const {
  if (plan_ != nullptr) return;
  throw Error(prefix_ + ": its gradients could not be grouped anew, and it cannot go on");
}

/// The other ranks do not wait for it any more.
void DistributedOptimizer::Reducer::leave() {
  if (!owned_plan_ || core::is_forked_child()) return;
  place_.family->remove(place_.number);
  owned_plan_.reset();
}

DistributedOptimizer::Reducer::~Reducer() { leave(); }

void DistributedOptimizer::Reducer::watch() {
  place_.family->add(place_.number, *this);
  for (std::size_t i = 0; i < gradients_.size(); ++i) {
    watches_.push_back(GradientWatch::begin(gradients_[i].parameter(), weak_from_this(), i));
  }
}

// ---- while backward runs ----

bool DistributedOptimizer::Reducer::on_the_wire(std::size_t index) const {
  return groups_[plan_->group_of(index)].work.has_value();
}

torch::Tensor DistributedOptimizer::Reducer::before_gradient(std::size_t index,
                                                             const torch::Tensor& incoming) {
  const std::lock_guard lock(mutex_);
  require_plan();
  RoundGradient& gradient = gradients_[index];
  if (options_.op != ReduceOp::Average &&
      (gradient.for_next_round(on_the_wire(index)) ||
       (gradient.reduced() && gradient.holds_numbers()))) {
    reason_ = c10::str("'", names_[index], "': a second backward adds to a gradient that was "
                         "reduced with ", core::to_string(detail::to_core(options_.op)),
                         ": that is right only with Average. Call zero_grad() before it, or "
                         "accumulate locally under no_sync().");
    throw Error(reason_);
  }
  return gradient.before(incoming, on_the_wire(index), *plan_);
}

void DistributedOptimizer::Reducer::after_gradient(std::size_t index) {
  const std::lock_guard lock(mutex_);
  const torch::NoGradGuard no_grad;
  last_gradient_ = index;
  std::erase(unreported_, index);
  if (gradients_[index].after(*plan_)) arrive(index, *current_backward());
}

/// A gradient, which is stored.
void DistributedOptimizer::Reducer::arrive(std::size_t index, const BackwardRun& backward) {
  if (!backward.synchronises()) return;
  RoundGradient& gradient = gradients_[index];
  gradient.arrive();
  streams_.add_current(gradient.parameter().device());
  if (std::exchange(gradient.expected, false)) --groups_[plan_->group_of(index)].expected;
  start_groups();
}

void DistributedOptimizer::Reducer::accumulator_changed(std::size_t index, bool misses_after) {
  const std::lock_guard lock(mutex_);
  require_plan();
  // Where the gradient is sure to be stored: if the next throws, the others are to hear of it.
  if (misses_after) (void)current_backward();
  try {
    require_fit(index);
  } catch (const Error& error) {
    reason_ = error.what();
    throw;
  }
  if (misses_after) unreported_.push_back(index);
}

std::shared_ptr<BackwardRun> DistributedOptimizer::Reducer::current_backward() {
  // A backward inside a backward counts as a part of the outer one, if that has begun for us.
  std::shared_ptr<BackwardRun> backward = backward_.lock();
  if (backward != nullptr && !backward->ended()) {
    // Unless it is another thread's.
    if (on_host_ && backward_thread_ != std::this_thread::get_id()) {
      place_.family->begin_backward(place_.number);
    }
    return backward;
  }
  const bool synchronises = no_sync_ == 0 && passes_ + 1 >= options_.backward_passes_per_step;
  // What a GPU's gradients come from runs on a thread of LibTorch's.
  if (on_host_) place_.family->begin_backward(place_.number);
  backward_thread_ = std::this_thread::get_id();
  reason_.clear();
  backward = BackwardRun::begin(shared_from_this(), synchronises);
  backward_ = backward;
  open_backward_ = backward.get();
  if (synchronises) expect_gradients();
  return backward;
}

void DistributedOptimizer::Reducer::end_backward(const BackwardRun& backward, bool failed) {
  const std::lock_guard lock(mutex_);
  place_.family->end_backward(place_.number);
  // Its round may be closed, by a family that met while an exception ended it.
  const std::vector<std::size_t> unreported = std::exchange(unreported_, {});
  if (std::exchange(open_backward_, nullptr) != &backward) return;
  for (const std::size_t index : unreported) {
    const torch::NoGradGuard no_grad;
    if (!failed && gradients_[index].after(*plan_)) arrive(index, backward);
  }
  ++passes_;
  record("backward", backward.began());
  if (!backward.synchronises()) {
    local_ = true;
    return;
  }
  if (failed && reason_.empty()) {
    reason_ = c10::str("after the gradient of '", names_[last_gradient_], "'; that rank's own error says more");
  }
  began_ = backward.began();
  close_round(failed, ClosedIn::Backward);
}

void DistributedOptimizer::Reducer::call_others() { place_.family->call(); }

void DistributedOptimizer::Reducer::finish_backward() {
  const Waiting waiting(*this, "backward");
  place_.family->call();
  place_.family->meet(ClosedIn::Backward);
}

void DistributedOptimizer::Reducer::synchronize() {
  check_step([this] { require_fit(); });
  {
    const std::lock_guard lock(mutex_);
    require_plan();
    const bool done = std::exchange(synchronized_, false);
    if (done && refused_.empty()) return;
    close_round(/*failed=*/false, ClosedIn::Synchronize);
  }
  const Waiting waiting(*this, "synchronize()");
  place_.family->call();
  place_.family->meet(ClosedIn::Synchronize);
}

// ---- step ----

torch::Tensor DistributedOptimizer::Reducer::step(
    bool with_closure, const std::function<torch::Tensor()>& inner_step) {
  trainer_ = gettid();
  if (!with_closure) reduce_local();
  if (equality_ != nullptr) equality_->note_step(step_);
  const Clock::time_point begin = Clock::now();
  torch::Tensor loss = inner_step();
  record("step", begin);
  context_->waiters().note_step(step_);
  ++step_;
  round_ = 0;
  passes_ = 0;
  synchronized_ = false;
  std::ranges::for_each(gradients_, &RoundGradient::note);
  return loss;
}

torch::Tensor DistributedOptimizer::Reducer::after_closure(const torch::Tensor& loss) {
  reduce_local();
  if (!loss.defined()) return loss;
  const Waiting waiting(*this, "step()");
  return allreduce(loss.detach(),
                   {.name = prefix_ + "loss", .process_set = options_.process_set});
}

void DistributedOptimizer::Reducer::reduce_local() {
  check_step([this] {
    require_fit();
    require_results();
  });
  {
    const std::lock_guard lock(mutex_);
    require_plan();
    const bool fresh = std::ranges::any_of(gradients_, &RoundGradient::fresh);
    const bool closes = fresh || local_ || round_ == 0 || any_replaced_average();
    if (!closes && !refused_.empty()) {
      throw Error(c10::str("step() would use gradients that were refused: ", refused_,
                           ". Run backward() again first."));
    }
    if (!closes && !latecomer_) return;
    if (closes) close_round(/*failed=*/false, ClosedIn::Step);
  }
  const Waiting waiting(*this, "step()");
  place_.family->meet_in_step(place_.number);
}

void DistributedOptimizer::Reducer::check_step(const std::function<void()>& check) {
  try {
    check();
  } catch (const Error& error) {
    reason_ = error.what();
    tell_failure();
    throw;
  }
}

void DistributedOptimizer::Reducer::tell_failure() {
  {
    const std::lock_guard lock(mutex_);
    close_round(/*failed=*/true, ClosedIn::Step);
  }
  try {
    const Waiting waiting(*this, "step()");
    place_.family->meet_in_step(place_.number);
  } catch (const Error&) {
    // What it comes to is for the others: here the reason itself is on its way.
  }
}

void DistributedOptimizer::Reducer::require_fit() const {
  for (std::size_t i = 0; i < gradients_.size(); ++i) {
    if (!watches_[i]->is_current()) require_fit(i);
  }
}

/// The parameter is what it was when its optimizer was wrapped.
void DistributedOptimizer::Reducer::require_fit(std::size_t index) const {
  const torch::Tensor& parameter = gradients_[index].parameter();
  if (plan_ == nullptr || plan_->fits(parameter, index)) return;
  const torch::Tensor& place = plan_->view(index);
  throw Error(c10::str("'", names_[index], "' was converted, moved or resized after its optimizer was wrapped in a "
                       "DistributedOptimizer: from ", place.scalar_type(), " ", place.sizes(), " on ",
                       place.device(), " to ", parameter.scalar_type(), " ", parameter.sizes(),
                       " on ", parameter.device(), ": call to() first, or wrap it anew (destroy the "
                       "DistributedOptimizer, then make another one)"));
}

/// Of an average that the program has replaced, the mean is right, whatever it was computed from.
void DistributedOptimizer::Reducer::require_results() const {
  if (options_.op == ReduceOp::Average || round_ == 0 || latecomer_ || !refused_.empty()) {
    return;
  }
  for (std::size_t i = 0; i < gradients_.size(); ++i) {
    if (gradients_[i].fresh() || !gradients_[i].replaced()) continue;
    throw Error(c10::str("'", names_[i], "': step() cannot know whether this gradient, which the program has "
                         "set by hand since backward() reduced it with ",
                         core::to_string(detail::to_core(options_.op)),
                         ", has still to be reduced. If so, call synchronize() before step(); "
                         "else change it in place."));
  }
}

bool DistributedOptimizer::Reducer::any_replaced_average() const {
  return refused_.empty() && !latecomer_ &&
         std::ranges::any_of(gradients_, &RoundGradient::replaced);
}

/// See core::Waiters::Activity: on a GPU, LibTorch ends a backward on a thread of its own.
std::optional<pid_t> DistributedOptimizer::Reducer::caller() const {
  if (gettid() == trainer_) return std::nullopt;
  const bool on_gpu = std::ranges::any_of(
      gradients_, [](const RoundGradient& gradient) { return !gradient.parameter().is_cpu(); });
  return on_gpu ? std::optional(trainer_) : std::nullopt;
}

/// For people: where this rank is.
std::string DistributedOptimizer::Reducer::words_for(std::string_view where) const {
  const core::PlanId number = id_.second / 2;
  const std::string optimizer = number == 0 ? "" : fmt::format(" of optimizer{}", number);
  return fmt::format("in {} of step {}{}", where, step_, optimizer);
}

void DistributedOptimizer::Reducer::record(std::string_view what, Clock::time_point begin) {
  if (track_) context_->timeline()->slice(*track_, what, begin, Clock::now());
}

}  // namespace kolo
