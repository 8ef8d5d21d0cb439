#pragma once

/// A thread that does work later, in order, each piece after a random delay.
///
/// Pushing orders what was before it before the work. Nothing else is ordered: neither the queue
/// nor the delays tell ThreadSanitizer that work happened before what its owner does later.

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <random>
#include <thread>
#include <utility>

#include "doubles/flag.h"

namespace kolo::doubles {

/// Sleeps, half of the time, for up to `longest`.
class Delays {
 public:
  Delays(std::uint64_t seed, std::chrono::microseconds longest)
      : random_(seed), longest_(longest) {}
  void delay();
  /// For who sleeps by himself.
  std::chrono::microseconds draw(std::chrono::microseconds longest);

 private:
  std::mt19937_64 random_;
  std::chrono::microseconds longest_;
};

class Worker {
 public:
  explicit Worker(Delays delays);
  /// Does what is left first.
  ~Worker();
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  /// From any thread. `work` is called once, and destroyed before the next piece of work begins.
  template <typename Work>
  void push(Work work) {
    push_node(new WorkNode<Work>(std::move(work)));
  }

  /// Once: no work comes any more, and the thread may end.
  void close();
  /// After close(), waits for the end.
  void join() { thread_.join(); }

 private:
  struct Node {
    virtual ~Node() = default;
    virtual void run() {}
    /// Written before the flag is raised.
    Node* next = nullptr;
    Flag is_followed;
  };

  template <typename Work>
  struct WorkNode : Node {
    explicit WorkNode(Work given) : work(std::move(given)) {}
    void run() override {
      Work once = std::move(work);
      once();
    }
    Work work;
  };

  struct LastNode : Node {};

  void push_node(Node* node);
  void run();

  Delays delays_;
  // A list from the node that was done last to the newest one.
  Node* done_ = new Node;
  std::atomic<Node*> newest_ = done_;
  bool closed_ = false;
  std::thread thread_;
};

}  // namespace kolo::doubles
