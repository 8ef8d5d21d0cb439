#include "reducer.h"

#include <kolo/error.h>
#include <kolo/ops.h>
#include <torch/csrc/autograd/engine.h>
#include <torch/csrc/autograd/variable.h>
#include <torch/torch.h>

#include <algorithm>
#include <cstring>
#include <exception>
#include <map>
#include <utility>

#include "bridge.h"
#include "global.h"
#include "same_on_all_ranks.h"

namespace kolo {
namespace {

using torch::autograd::variable_list;
using Clock = core::Clock;

std::vector<std::string> describe(const std::vector<std::pair<std::string, torch::Tensor>>& parameters,
                                  const DistributedOptimizerOptions& options) {
  std::vector<std::string> lines = {
      c10::str("reduce op ", core::to_string(detail::to_core(options.op))),
      c10::str("backward_passes_per_step ", options.backward_passes_per_step)};
  for (const auto& [name, tensor] : parameters) {
    lines.push_back(c10::str("'", name, "' ", tensor.scalar_type(), " ", tensor.sizes()));
  }
  return lines;
}

/// A number that no other optimizer of the process set has. Not all ranks have taken part in making the
/// same optimizers before.
std::int64_t agree_on_number(core::Context& context, const ProcessSet& process_set) {
  torch::Tensor number = torch::tensor(static_cast<std::int64_t>(context.take_number()));
  allreduce_(number, {.name = "optimizer_number", .op = ReduceOp::Max, .process_set = process_set});
  return number.item<std::int64_t>();
}

/// The node that adds to a parameter's gradient. A parameter that is frozen now may be thawed later,
/// so it gets one, too.
std::shared_ptr<torch::autograd::Node> accumulator_of(torch::Tensor parameter) {
  const bool frozen = !parameter.requires_grad();
  if (frozen) parameter.set_requires_grad(true);
  std::shared_ptr<torch::autograd::Node> node = torch::autograd::impl::grad_accumulator(parameter);
  if (frozen) parameter.set_requires_grad(false);
  return node;
}

/// Whether a gradient that autograd has just stored lives in memory that others use as well. Autograd
/// moves the incoming gradient into place where nobody else holds that tensor; but it may be a view of
/// what is on its way to another node, or of what the program passed to backward().
bool is_borrowed(const torch::Tensor& gradient, const torch::Tensor& incoming) {
  const bool dense = gradient.layout() == torch::kStrided && incoming.defined() &&
                     incoming.layout() == torch::kStrided;
  if (!dense || !gradient.is_alias_of(incoming)) return false;
  if (!incoming.is_view()) return gradient.storage().use_count() > 2;
  return incoming._base().use_count() > 1 || gradient.storage().use_count() > 3;
}

}  // namespace

/// What a rank says at the end of a round.
struct DistributedOptimizer::Reducer::Word {
  struct Head {
    std::int64_t step = 0;
    std::int64_t round = 0;
    std::int32_t rank = 0;
    /// Its backward ended with an exception.
    std::uint8_t failed = 0;
    /// It has left a gradient for another round.
    std::uint8_t carries = 0;
  };
  Head head;
  /// By parameter: whether this rank has reduced a gradient in this round.
  std::vector<bool> has_gradient;

  static std::size_t bytes(std::size_t parameters) { return sizeof(Head) + (parameters + 7) / 8; }

  void write(std::uint8_t* bytes) const {
    std::memcpy(bytes, &head, sizeof(Head));
    std::uint8_t* bits = bytes + sizeof(Head);
    for (std::size_t i = 0; i < has_gradient.size(); ++i) {
      if (has_gradient[i]) bits[i / 8] = static_cast<std::uint8_t>(bits[i / 8] | (1U << (i % 8)));
    }
  }

  static Word read(const std::uint8_t* bytes, std::size_t parameters) {
    Word word;
    std::memcpy(&word.head, bytes, sizeof(Head));
    const std::uint8_t* bits = bytes + sizeof(Head);
    for (std::size_t i = 0; i < parameters; ++i) {
      word.has_gradient.push_back(((bits[i / 8] >> (i % 8)) & 1U) != 0);
    }
    return word;
  }
};

/// One run of the autograd engine in which our parameters get gradients. Owned by the engine, which
/// calls end(), or drops it when an exception ends the run.
///
/// A run may reach several optimizers, in another order on each rank. So all of them say their closing
/// word before any waits for the others' words, and they wait in the order of their ids.
class DistributedOptimizer::Reducer::Backward : public std::enable_shared_from_this<Backward> {
 public:
  Backward(std::shared_ptr<Reducer> reducer, bool synchronises)
      : synchronises_(synchronises), reducer_(std::move(reducer)) {}
  Backward(const Backward&) = delete;
  Backward& operator=(const Backward&) = delete;

  ~Backward() {
    try {
      if (!ended_) reducer_->end_backward(*this, /*failed=*/true);
      // Another optimizer's failure may have kept the engine from calling wait_for_next().
      const auto left = std::erase_if(waiting_, [this](const auto& w) { return w.second == this; });
      if (!ended_ || left > 0) wait();
    } catch (const std::exception&) {
      // The exception that ended backward is on its way to the user.
    }
  }

  void end() {
    ended_ = true;
    reducer_->end_backward(*this, /*failed=*/false);
    waiting_.emplace(reducer_->id_, this);
    torch::autograd::Engine::get_default_engine().queue_callback(
        [self = shared_from_this()] { wait_for_next(); });
  }

  bool ended() const { return ended_; }
  bool synchronises() const { return synchronises_; }
  Clock::time_point began() const { return began_; }

 private:
  static void wait_for_next() {
    Backward& next = *waiting_.begin()->second;
    waiting_.erase(waiting_.begin());
    next.wait();
  }

  void wait() {
    if (synchronises_) reducer_->finish_rounds();
  }

  /// Of the run that is ending on this thread.
  static inline thread_local std::map<Id, Backward*> waiting_;

  const bool synchronises_;
  const Clock::time_point began_ = Clock::now();
  const std::shared_ptr<Reducer> reducer_;
  bool ended_ = false;
};

class DistributedOptimizer::Reducer::BeforeHook : public torch::autograd::FunctionPreHook {
 public:
  BeforeHook(std::weak_ptr<Reducer> reducer, std::size_t index)
      : reducer_(std::move(reducer)), index_(index) {}

  variable_list operator()(const variable_list& gradients) override {
    if (const auto reducer = reducer_.lock()) reducer->before_gradient(index_);
    return gradients;
  }

 private:
  std::weak_ptr<Reducer> reducer_;
  std::size_t index_;
};

class DistributedOptimizer::Reducer::AfterHook : public torch::autograd::FunctionPostHook {
 public:
  AfterHook(std::weak_ptr<Reducer> reducer, std::size_t index)
      : reducer_(std::move(reducer)), index_(index) {}

  variable_list operator()(const variable_list& outputs, const variable_list& inputs) override {
    if (const auto reducer = reducer_.lock()) reducer->after_gradient(index_, inputs.front());
    return outputs;
  }

  bool alive() const { return !reducer_.expired(); }

 private:
  std::weak_ptr<Reducer> reducer_;
  std::size_t index_;
};

DistributedOptimizer::Reducer::Reducer(NamedParameters parameters,
                                       const DistributedOptimizerOptions& options)
    : context_(detail::current_context()),
      options_(options),
      id_(options.process_set.id(), agree_on_number(*context_, options.process_set)),
      prefix_(c10::str("optimizer", id_.second, "/")),
      alone_(context_->topology().size == 1) {
  detail::require_same_on_all_ranks(prefix_ + "parameters", "the parameters of the optimizers",
                                    describe(parameters, options), options.process_set);
  if (options.backward_passes_per_step < 1) {
    throw Error(c10::str("DistributedOptimizer: backward_passes_per_step must be at least 1, not ",
                         options.backward_passes_per_step));
  }
  for (auto& [name, tensor] : parameters) {
    const std::shared_ptr<torch::autograd::Node> accumulator = accumulator_of(tensor);
    for (const auto& hook : accumulator->post_hooks()) {
      const auto* other = dynamic_cast<const AfterHook*>(hook.get());
      if (other == nullptr || !other->alive()) continue;
      throw Error("DistributedOptimizer: parameter '" + name +
                  "' already belongs to another DistributedOptimizer. Give each parameter to one "
                  "optimizer only, or destroy the other one first.");
    }
    parameters_.push_back({.name = prefix_ + name, .tensor = tensor, .accumulator = accumulator});
  }
  if (core::Timeline* timeline = context_->timeline()) {
    track_ = timeline->add_track(prefix_.substr(0, prefix_.size() - 1));
  }
}

DistributedOptimizer::Reducer::~Reducer() = default;

void DistributedOptimizer::Reducer::watch() {
  if (alone_) return;
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    torch::autograd::Node& node = *parameters_[i].accumulator;
    node.add_pre_hook(std::make_unique<BeforeHook>(weak_from_this(), i));
    node.add_post_hook(std::make_unique<AfterHook>(weak_from_this(), i));
  }
}

// ---- while backward runs ----

void DistributedOptimizer::Reducer::before_gradient(std::size_t index) {
  Parameter& parameter = parameters_[index];
  torch::Tensor& gradient = parameter.tensor.mutable_grad();
  const bool on_the_wire = parameter.work.has_value();
  if (options_.op != ReduceOp::Average) {
    const bool adds = parameter.reduced && gradient.defined() &&
                      gradient.count_nonzero().item<std::int64_t>() > 0;
    if (on_the_wire || adds) {
      throw Error(c10::str("'", parameter.name, "': a second backward adds to a gradient that was "
                           "reduced with ", core::to_string(detail::to_core(options_.op)),
                           ": that is right only with Average. Call zero_grad() before it, or "
                           "accumulate locally under no_sync()."));
    }
    parameter.reduced = false;
  }
  // What comes now goes to memory of its own, and is added in finish().
  if (on_the_wire) gradient.reset();
}

void DistributedOptimizer::Reducer::after_gradient(std::size_t index,
                                                   const torch::Tensor& incoming) {
  Parameter& parameter = parameters_[index];
  torch::Tensor& gradient = parameter.tensor.mutable_grad();
  if (!gradient.defined()) return;
  if (is_borrowed(gradient, incoming)) gradient = gradient.clone();
  const std::shared_ptr<Backward> backward = current_backward();
  parameter.fresh = true;
  if (backward->synchronises() && !parameter.work.has_value()) start(parameter);
}

std::shared_ptr<DistributedOptimizer::Reducer::Backward>
DistributedOptimizer::Reducer::current_backward() {
  // A backward inside a backward counts as a part of the outer one, if that has begun for us.
  std::shared_ptr<Backward> backward = backward_.lock();
  if (backward != nullptr && !backward->ended()) return backward;
  const bool synchronises = no_sync_ == 0 && passes_ + 1 >= options_.backward_passes_per_step;
  backward = std::make_shared<Backward>(shared_from_this(), synchronises);
  backward_ = backward;
  torch::autograd::Engine::get_default_engine().queue_callback([backward] { backward->end(); });
  return backward;
}

void DistributedOptimizer::Reducer::end_backward(const Backward& backward, bool failed) {
  ++passes_;
  record("backward", backward.began());
  if (!backward.synchronises()) {
    local_ = true;
    return;
  }
  begin_round(failed);
}

// ---- step ----

torch::Tensor DistributedOptimizer::Reducer::step(
    bool with_closure, const std::function<torch::Tensor()>& inner_step) {
  if (!with_closure) reduce_local();
  const Clock::time_point begin = Clock::now();
  torch::Tensor loss = inner_step();
  record("step", begin);
  ++step_;
  round_ = 0;
  passes_ = 0;
  return loss;
}

torch::Tensor DistributedOptimizer::Reducer::after_closure(const torch::Tensor& loss) {
  reduce_local();
  if (alone_ || !loss.defined()) return loss;
  return allreduce(loss.detach(),
                   {.name = prefix_ + "loss", .process_set = options_.process_set});
}

void DistributedOptimizer::Reducer::reduce_local() {
  if (alone_) return;
  require_hooks();
  const bool fresh = std::ranges::any_of(parameters_, &Parameter::fresh);
  if (!fresh && !local_ && round_ > 0) return;
  begin_round(/*failed=*/false);
  finish_rounds();
}

/// LibTorch drops our hooks without a word when it changes the type of a parameter.
void DistributedOptimizer::Reducer::require_hooks() const {
  for (const Parameter& parameter : parameters_) {
    if (torch::autograd::impl::try_get_grad_accumulator(parameter.tensor) == parameter.accumulator) {
      continue;
    }
    throw Error(c10::str("'", parameter.name,
                         "' was converted or loaded after its optimizer was wrapped in a "
                         "DistributedOptimizer: call to() first, or load first, then wrap the "
                         "optimizer"));
  }
}

// ---- rounds ----

/// Starts what is left of this rank's gradients, and says its word, without waiting for anything.
void DistributedOptimizer::Reducer::begin_round(bool failed) {
  const torch::NoGradGuard no_grad;
  for (Parameter& parameter : parameters_) {
    // It may have been discarded since.
    if (!parameter.tensor.grad().defined()) parameter.fresh = false;
    if (parameter.fresh && !parameter.work.has_value()) start(parameter);
  }
  Word word{.head = {.step = step_,
                     .round = round_++,
                     .rank = context_->topology().rank,
                     .failed = failed,
                     .carries = std::ranges::any_of(parameters_, &Parameter::fresh)}};
  for (const Parameter& parameter : parameters_) {
    word.has_gradient.push_back(parameter.work.has_value());
  }
  words_ = say(word);
}

void DistributedOptimizer::Reducer::finish_rounds() {
  const torch::NoGradGuard no_grad;
  const Clock::time_point begin = Clock::now();
  std::string error;
  while (finish_round(error)) begin_round(/*failed=*/false);
  local_ = false;
  exposed_ += Clock::now() - begin;
  record("wait", begin);
  if (!error.empty()) throw Error(error);
}

/// Whether another round has to follow.
bool DistributedOptimizer::Reducer::finish_round(std::string& error) {
  std::vector<Word> words;
  try {
    words = hear(*words_);
  } catch (const Error& broken) {
    error = broken.what();
  }
  for (const Word& word : words) {
    for (std::size_t i = 0; i < parameters_.size(); ++i) {
      if (word.has_gradient[i] && !parameters_[i].work.has_value()) start(parameters_[i]);
    }
  }
  for (Parameter& parameter : parameters_) {
    if (parameter.work.has_value()) finish(parameter, error);
  }
  if (error.empty()) error = disagreement(words);
  return error.empty() &&
         std::ranges::any_of(words, [](const Word& word) { return word.head.carries != 0; });
}

void DistributedOptimizer::Reducer::start(Parameter& parameter) {
  const torch::Tensor& gradient = parameter.tensor.grad();
  parameter.reducing =
      gradient.defined() ? gradient : torch::zeros_like(parameter.tensor.detach());
  parameter.work =
      allreduce_async_(parameter.reducing, {.name = parameter.name,
                                            .op = options_.op,
                                            .process_set = options_.process_set});
  parameter.fresh = false;
}

void DistributedOptimizer::Reducer::finish(Parameter& parameter, std::string& error) {
  try {
    parameter.work->wait();
  } catch (const Error& failure) {
    if (error.empty()) error = failure.what();
  }
  parameter.work.reset();
  parameter.reduced = true;
  torch::Tensor& gradient = parameter.tensor.mutable_grad();
  // Another gradient has come meanwhile: see before_gradient().
  if (gradient.defined() && !gradient.is_same(parameter.reducing)) {
    parameter.reducing.add_(gradient);
  }
  gradient = std::exchange(parameter.reducing, {});
}

Work DistributedOptimizer::Reducer::say(const Word& word) const {
  const std::size_t bytes = Word::bytes(parameters_.size());
  const torch::Tensor own = torch::zeros({static_cast<std::int64_t>(bytes)}, torch::kUInt8);
  word.write(own.data_ptr<std::uint8_t>());
  return allgather_async(own,
                         {.name = prefix_ + "closing_word", .process_set = options_.process_set});
}

std::vector<DistributedOptimizer::Reducer::Word> DistributedOptimizer::Reducer::hear(
    Work work) const {
  const torch::Tensor all = work.result();
  const std::size_t bytes = Word::bytes(parameters_.size());
  std::vector<Word> words;
  for (std::size_t at = 0; at < static_cast<std::size_t>(all.numel()); at += bytes) {
    words.push_back(Word::read(all.data_ptr<std::uint8_t>() + at, parameters_.size()));
  }
  return words;
}

/// Why the round is not to be used, although all gradients have been reduced; or nothing.
std::string DistributedOptimizer::Reducer::disagreement(const std::vector<Word>& words) const {
  const Word::Head& first = words.front().head;
  for (const Word& word : words) {
    const Word::Head& head = word.head;
    if (head.failed != 0) {
      return c10::str("backward() ended with an exception on rank ", head.rank,
                      ", so the gradients of this step are incomplete on all ranks");
    }
    if (head.step != first.step || head.round != first.round) {
      return c10::str("the ranks run different numbers of backward passes: rank ", first.rank,
                      " reduces gradients for time ", first.round + 1, " in step ", first.step,
                      ", rank ", head.rank, " for time ", head.round + 1, " in step ", head.step,
                      ". Call backward() equally often on all ranks between two step(), or "
                      "accumulate under no_sync().");
    }
  }
  return {};
}

void DistributedOptimizer::Reducer::record(std::string_view what, Clock::time_point begin) {
  if (track_) context_->timeline()->slice(*track_, what, begin, Clock::now());
}

}  // namespace kolo
