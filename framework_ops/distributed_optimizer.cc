#include <kolo/distributed_optimizer.h>
#include <kolo/error.h>
#include <torch/torch.h>

#include <map>
#include <set>
#include <utility>

#include "global.h"
#include "options_mirror.h"
#include "reducer.h"

namespace kolo {
namespace {

using NamedParameters = std::vector<std::pair<std::string, torch::Tensor>>;

/// The inner optimizer's parameters, in its order, each once, with their names; `refusal` says if one
/// has none.
NamedParameters name_parameters(const torch::optim::Optimizer& inner,
                                const torch::OrderedDict<std::string, torch::Tensor>& names,
                                std::string& refusal) {
  // A parameter that two modules share has two names: the first is taken.
  std::map<const c10::TensorImpl*, std::string> name_of;
  for (const auto& item : names) {
    name_of.try_emplace(item.value().unsafeGetTensorImpl(), item.key());
  }
  NamedParameters named;
  std::set<const c10::TensorImpl*> seen;
  for (std::size_t group = 0; group < inner.param_groups().size(); ++group) {
    const std::vector<torch::Tensor>& parameters = inner.param_groups()[group].params();
    for (std::size_t i = 0; i < parameters.size(); ++i) {
      const auto found = name_of.find(parameters[i].unsafeGetTensorImpl());
      if (found == name_of.end()) {
        refusal = c10::str("parameter ", i, " of the optimizer's group ", group, ", of shape ",
                           parameters[i].sizes(),
                           ", has no name: pass named_parameters() of every module whose parameters "
                           "the optimizer has");
        return named;
      }
      if (seen.insert(found->first).second) named.emplace_back(found->second, parameters[i]);
    }
  }
  return named;
}

}  // namespace

DistributedOptimizer::DistributedOptimizer(
    torch::optim::Optimizer& inner, torch::OrderedDict<std::string, torch::Tensor> parameters,
    DistributedOptimizerOptions options)
    : torch::optim::Optimizer(inner.param_groups(), inner.defaults().clone()),
      inner_(inner),
      mirror_(std::make_unique<detail::OptionsMirror>(*this, inner)) {
  std::string refusal;
  const NamedParameters named = name_parameters(inner, parameters, refusal);
  reducer_ = std::make_shared<Reducer>(named, refusal, options, *mirror_);
  reducer_->watch();
}

DistributedOptimizer::~DistributedOptimizer() = default;

torch::Tensor DistributedOptimizer::step(LossClosure closure) {
  detail::require_own_process();
  reducer_->check_step([this] { mirror_->reconcile(); });
  return reducer_->step(closure != nullptr, [&] {
    if (closure == nullptr) return inner_.step();
    return inner_.step([&] { return reducer_->after_closure(closure()); });
  });
}

void DistributedOptimizer::synchronize() { reducer_->synchronize(); }

void DistributedOptimizer::save(torch::serialize::OutputArchive& archive) const {
  mirror_->reconcile();
  inner_.save(archive);
}

void DistributedOptimizer::load(torch::serialize::InputArchive& archive) {
  mirror_->reconcile();
  inner_.load(archive);
  mirror_->reconcile();
}

torch::optim::Optimizer& DistributedOptimizer::inner() {
  mirror_->reconcile();
  return inner_;
}

double DistributedOptimizer::exposed_seconds() const { return reducer_->exposed_seconds(); }

DistributedOptimizer::NoSync DistributedOptimizer::no_sync() { return NoSync(reducer_); }

DistributedOptimizer::NoSync::NoSync(std::shared_ptr<Reducer> reducer)
    : reducer_(std::move(reducer)) {
  reducer_->enter_no_sync();
}

DistributedOptimizer::NoSync::~NoSync() { reducer_->leave_no_sync(); }

}  // namespace kolo
