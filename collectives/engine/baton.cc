#include "engine/baton.h"

#include <algorithm>
#include <thread>

#include "engine/work.h"

namespace kolo::core {

void Baton::call(bool awaited) {
  const std::lock_guard lock(mutex_);
  if (state_ != State::Nobody) {
    doorbell_.ring();
  } else if (!awaited) {
    needed_ = true;
    turn_.notify_one();
  }
}

bool Baton::take_if_idle() {
  const std::lock_guard lock(mutex_);
  if (state_ != State::Nobody || needed_ || closed_) return false;
  state_ = State::Caller;
  return true;
}

void Baton::await(const Work& work) {
  const Waiters::Waiting waiting(waiters_, work);
  std::unique_lock lock(mutex_);
  while (!work.done()) {
    if (state_ == State::Nobody && !closed_) {
      state_ = State::Caller;
      needed_ = false;
      lock.unlock();
      holder_->run(&work);
      lock.lock();
      release();
      continue;
    }
    waiting_.push_back(&work);
    if (state_ == State::Thread && !closed_) {
      recalled_ = true;
      doorbell_.ring();
    }
    lock.unlock();
    work.sleep();
    lock.lock();
    std::erase(waiting_, &work);
  }
  if (state_ == State::Nobody && needed_) wake_next();
}

void Baton::close() {
  const std::lock_guard lock(mutex_);
  closed_ = true;
  if (state_ == State::Nobody) {
    turn_.notify_one();
  } else {
    doorbell_.ring();
  }
}

void Baton::take() {
  std::unique_lock lock(mutex_);
  const auto its_turn = [this] { return state_ == State::Nobody && (needed_ || closed_); };
  turn_.wait(lock, its_turn);
  // Who has submitted something mostly goes on to, and may share this core.
  lock.unlock();
  std::this_thread::yield();
  lock.lock();
  turn_.wait(lock, its_turn);
  state_ = State::Thread;
  needed_ = false;
}

void Baton::give_back() {
  const std::lock_guard lock(mutex_);
  release();
}

void Baton::release() {
  state_ = State::Nobody;
  recalled_ = false;
  needed_ = closed_ || holder_->has_work();
  if (needed_) wake_next();
}

void Baton::wake_next() {
  if (waiting_.empty() || closed_) return turn_.notify_one();
  const Work* const next = waiting_.front();
  waiting_.pop_front();
  next->nudge();
}

}  // namespace kolo::core
