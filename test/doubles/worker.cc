#include "doubles/worker.h"

#include "doubles/control.h"

namespace kolo::doubles {

void Delays::delay() {
  const std::chrono::microseconds time = draw(longest_);
  if (time.count() > 0) std::this_thread::sleep_for(time);
}

std::chrono::microseconds Delays::draw(std::chrono::microseconds longest) {
  if (longest.count() == 0) return {};
  const std::uint64_t number = random_();
  if (number % 2 == 0) return {};
  const auto range = static_cast<std::uint64_t>(longest.count()) + 1;
  return std::chrono::microseconds((number >> 1) % range);
}

Worker::Worker(Delays delays) : delays_(std::move(delays)), thread_([this] { run(); }) {}

Worker::~Worker() {
  if (!closed_) close();
  if (thread_.joinable()) thread_.join();
  delete done_;
}

void Worker::close() {
  closed_ = true;
  push_node(new LastNode);
}

void Worker::push_node(Node* node) {
  Node* const before = newest_.exchange(node, std::memory_order_acq_rel);
  before->next = node;
  before->is_followed.raise();
}

void Worker::run() {
  mark_as_stream_thread();
  while (true) {
    done_->is_followed.wait();
    Node* const node = done_->next;
    delete std::exchange(done_, node);
    if (dynamic_cast<LastNode*>(node) != nullptr) return;
    delays_.delay();
    node->run();
  }
}

}  // namespace kolo::doubles
