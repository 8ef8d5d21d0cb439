#include "backward_run.h"

#include <torch/csrc/autograd/engine.h>
#include <torch/torch.h>

#include <exception>
#include <functional>
#include <utility>

namespace kolo {
namespace {

void when_backward_ends(std::function<void()> callback) {
  torch::autograd::Engine::get_default_engine().queue_callback(std::move(callback));
}

}  // namespace

thread_local std::weak_ptr<BackwardRun::Ending> BackwardRun::ending_;

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
    if (!ended_ || waits_) wait();
  } catch (const std::exception&) {
    // The exception that ended backward is on its way to the user.
  }
}

void BackwardRun::end() {
  ended_ = true;
  owner_->end_backward(*this, /*failed=*/false);
  waits_ = true;
  std::shared_ptr<Ending> ending = ending_.lock();
  if (ending == nullptr) {
    ending = std::make_shared<Ending>();
    ending_ = ending;
  }
  ending->waiting.emplace(owner_->id(), this);
  when_backward_ends([self = shared_from_this(), ending] { ending->wait_for_next(); });
}

void BackwardRun::wait() {
  waits_ = false;
  if (synchronises_) owner_->finish_backward();
}

void BackwardRun::Ending::wait_for_next() {
  if (!std::exchange(called, true)) {
    for (const auto& [id, run] : waiting) {
      if (run->synchronises_) run->owner_->call_others();
    }
  }
  BackwardRun& next = *waiting.begin()->second;
  waiting.erase(waiting.begin());
  next.wait();
}

}  // namespace kolo
