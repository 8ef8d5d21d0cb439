#include "backward_run.h"

#include <torch/csrc/autograd/engine.h>
#include <torch/torch.h>

#include <exception>
#include <functional>

namespace kolo {
namespace {

void when_backward_ends(std::function<void()> callback) {
  torch::autograd::Engine::get_default_engine().queue_callback(std::move(callback));
}

}  // namespace

thread_local std::map<BackwardRun::Id, BackwardRun*> BackwardRun::waiting_;

std::shared_ptr<BackwardRun> BackwardRun::begin(std::shared_ptr<Owner> owner, bool synchronises) {
  const std::shared_ptr<BackwardRun> run(new BackwardRun(std::move(owner), synchronises));
  when_backward_ends([run] { run->end(); });
  return run;
}

BackwardRun::BackwardRun(std::shared_ptr<Owner> owner, bool synchronises)
    : synchronises_(synchronises), owner_(std::move(owner)) {}

BackwardRun::~BackwardRun() {
  try {
    if (!ended_) owner_->end_backward(*this, /*failed=*/true);
    // Another optimizer's failure may have kept the engine from calling wait_for_next().
    const auto left = std::erase_if(waiting_, [this](const auto& w) { return w.second == this; });
    if (!ended_ || left > 0) wait();
  } catch (const std::exception&) {
    // The exception that ended backward is on its way to the user.
  }
}

void BackwardRun::end() {
  ended_ = true;
  owner_->end_backward(*this, /*failed=*/false);
  waiting_.emplace(owner_->id(), this);
  when_backward_ends([self = shared_from_this()] { wait_for_next(); });
}

void BackwardRun::wait() {
  if (synchronises_) owner_->finish_backward();
}

void BackwardRun::wait_for_next() {
  BackwardRun& next = *waiting_.begin()->second;
  waiting_.erase(waiting_.begin());
  next.wait();
}

}  // namespace kolo
