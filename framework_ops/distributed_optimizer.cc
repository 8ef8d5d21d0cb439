#include <kolo/distributed_optimizer.h>
#include <kolo/error.h>
#include <torch/torch.h>

#include <unordered_set>
#include <utility>

#include "global.h"
#include "options_mirror.h"
#include "reducer.h"
#include "state_mirror.h"

namespace kolo {
namespace {

using NamedParameters = std::vector<std::pair<std::string, torch::Tensor>>;

using Names = std::unordered_map<const void*, std::string>;

/// A parameter that two modules share has two names: the first is taken.
Names names_of(const std::vector<ParameterNames::Dict>& modules) {
  Names names;
  for (std::size_t i = 0; i < modules.size(); ++i) {
    const std::string prefix = modules.size() == 1 ? std::string() : c10::str("module", i, ".");
    for (const auto& item : modules[i]) {
      names.try_emplace(item.value().unsafeGetTensorImpl(), prefix + item.key());
    }
  }
  return names;
}

Names numbered_names(const torch::optim::Optimizer& inner) {
  Names names;
  for (std::size_t group = 0; group < inner.param_groups().size(); ++group) {
    const std::vector<torch::Tensor>& parameters = inner.param_groups()[group].params();
    for (std::size_t i = 0; i < parameters.size(); ++i) {
      names.try_emplace(parameters[i].unsafeGetTensorImpl(),
                        c10::str("group ", group, " parameter ", i));
    }
  }
  return names;
}

/// The inner optimizer's parameters, in its order, each once, with their names; `refusal` says if one
/// has none.
NamedParameters name_parameters(const torch::optim::Optimizer& inner, const Names& names,
                                std::string& refusal) {
  NamedParameters named;
  std::unordered_set<const void*> seen;
  for (std::size_t group = 0; group < inner.param_groups().size(); ++group) {
    const std::vector<torch::Tensor>& parameters = inner.param_groups()[group].params();
    for (std::size_t i = 0; i < parameters.size(); ++i) {
      const auto found = names.find(parameters[i].unsafeGetTensorImpl());
      if (found == names.end()) {
        refusal = c10::str("parameter ", i, " of the optimizer's group ", group, ", of shape ",
                           parameters[i].sizes(),
                           ", has no name: pass named_parameters() of every module whose parameters "
                           "the optimizer has, or no names at all");
        return named;
      }
      if (seen.insert(found->first).second) named.emplace_back(found->second, parameters[i]);
    }
  }
  return named;
}

}  // namespace

DistributedOptimizer::DistributedOptimizer(torch::optim::Optimizer& inner,
                                           const ParameterNames& names,
                                           DistributedOptimizerOptions options)
    : DistributedOptimizer(inner, std::move(options), names_of(names.modules())) {}

DistributedOptimizer::DistributedOptimizer(torch::optim::Optimizer& inner,
                                           DistributedOptimizerOptions options)
    : DistributedOptimizer(inner, std::move(options), numbered_names(inner)) {}

DistributedOptimizer::DistributedOptimizer(torch::optim::Optimizer& inner,
                                           DistributedOptimizerOptions options, const Names& names)
    : torch::optim::Optimizer(inner.param_groups(), inner.defaults().clone()),
      inner_(inner),
      mirror_(std::make_unique<detail::OptionsMirror>(*this, inner)),
      states_(std::make_unique<detail::StateMirror>(*this, inner)) {
  std::string refusal;
  const NamedParameters named = name_parameters(inner, names, refusal);
  reducer_ = std::make_shared<Reducer>(named, refusal, options, *mirror_);
  reducer_->watch();
}

DistributedOptimizer::~DistributedOptimizer() = default;

torch::Tensor DistributedOptimizer::step(LossClosure closure) {
  detail::require_own_process();
  reducer_->check_step([this] { reconcile(); });
  torch::Tensor loss = reducer_->step(closure != nullptr, [&] {
    if (closure == nullptr) return inner_.step();
    return inner_.step([&] { return reducer_->after_closure(closure()); });
  });
  states_->reconcile();
  return loss;
}

/// What a program has changed in either optimizer is in both.
void DistributedOptimizer::reconcile() const {
  mirror_->reconcile();
  states_->reconcile();
}

void DistributedOptimizer::synchronize() { reducer_->synchronize(); }

void DistributedOptimizer::save(torch::serialize::OutputArchive& archive) const {
  reconcile();
  inner_.save(archive);
}

void DistributedOptimizer::load(torch::serialize::InputArchive& archive) {
  reconcile();
  inner_.load(archive);
  reconcile();
}

torch::optim::Optimizer& DistributedOptimizer::inner() {
  reconcile();
  return inner_;
}

double DistributedOptimizer::exposed_seconds() const { return reducer_->exposed_seconds(); }

DistributedOptimizer::NoSync DistributedOptimizer::no_sync() { return NoSync(reducer_); }

DistributedOptimizer::NoSync::NoSync(std::shared_ptr<Reducer> reducer)
    : reducer_(std::move(reducer)) {
  reducer_->enter_no_sync();
}

DistributedOptimizer::NoSync::~NoSync() {
  if (reducer_ != nullptr) reducer_->leave_no_sync();
}

DistributedOptimizer::NoSync& DistributedOptimizer::NoSync::operator=(NoSync&& other) noexcept {
  reducer_.swap(other.reducer_);
  return *this;
}

}  // namespace kolo
