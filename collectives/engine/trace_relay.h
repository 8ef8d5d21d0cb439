#pragma once

/// From a rank on another host than rank 0's, which has the trace's file, to the coordinator, which
/// sends it there.

#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/baton.h"
#include "engine/trace_sink.h"

namespace kolo::core {

/// Thread-safe.
class TraceRelay {
 public:
  /// `baton` is called for what was put.
  explicit TraceRelay(std::shared_ptr<Baton> baton) : baton_(std::move(baton)) {}

  void put(std::string_view lines) {
    {
      const std::lock_guard lock(mutex_);
      waiting_.emplace_back(lines);
    }
    baton_->call();
  }

  bool empty() const {
    const std::lock_guard lock(mutex_);
    return waiting_.empty();
  }

  std::vector<std::string> take() {
    const std::lock_guard lock(mutex_);
    return std::exchange(waiting_, {});
  }

 private:
  const std::shared_ptr<Baton> baton_;
  mutable std::mutex mutex_;
  std::vector<std::string> waiting_;  // guarded by mutex_
};

class RelayedTrace final : public TraceSink {
 public:
  /// `relay` must outlive it.
  explicit RelayedTrace(TraceRelay& relay) : relay_(relay) {}

  Status append(std::string_view lines) override {
    if (!lines.empty()) relay_.put(lines);
    return {};
  }

 private:
  TraceRelay& relay_;
};

}  // namespace kolo::core
