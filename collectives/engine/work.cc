#include "engine/work.h"

#include "base/forked.h"
#include "engine/baton.h"

namespace kolo::core {

Status Work::wait() const {
  // Who would do it is in the parent.
  if (!done() && is_forked_child()) return refused_in_child();
  if (baton_ != nullptr && !done()) baton_->await(*this);
  while (!done()) sleep();
  return *status_;
}

void Work::sleep() const {
  std::unique_lock lock(mutex_);
  condition_.wait(lock, [this] { return done() || nudged_; });
  nudged_ = false;
}

void Work::nudge() const {
  {
    const std::lock_guard lock(mutex_);
    nudged_ = true;
  }
  condition_.notify_all();
}

void Work::complete(Status status, Outcome outcome) {
  {
    const std::lock_guard lock(mutex_);
    outcome_ = std::move(outcome);
    status_ = std::move(status);
    done_.store(true, std::memory_order_release);
  }
  condition_.notify_all();
}

void EndSubmission::operator()(Submission* submission) const noexcept {
  Work* const work = submission->work.get();
  if (work != nullptr && !work->done()) work->complete(Status::error("out of memory"));
  delete submission;
}

SubmissionPtr make_submission(Submission submission) {
  return SubmissionPtr(new Submission(std::move(submission)));
}

}  // namespace kolo::core
