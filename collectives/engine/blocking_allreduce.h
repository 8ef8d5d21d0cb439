#pragma once

/// An all-reduce that its caller waits for, before anything is made of it.

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string_view>

#include "base/types.h"
#include "engine/work.h"
#include "wire/messages.h"

namespace kolo::core {

/// In place, on the host. It refers to what the caller has anyway, for as long as the call lasts:
/// one whose name recurs takes no memory.
struct BlockingAllreduce {
  ChannelId process_set = kWorldChannel;
  std::string_view name;
  DataType dtype = DataType::Float32;
  ReduceOp op = ReduceOp::Sum;
  double prescale = 1.0;
  double postscale = 1.0;
  std::span<const std::int64_t> shape;
  void* memory = nullptr;
  /// Makes an owner of the memory, for an operation that may outlive the call.
  std::function<std::shared_ptr<void>()> owner;

  /// Whether this is what `request` asks for, but for its name.
  bool is(const Request& request) const;

  Submission submission() const;
};

}  // namespace kolo::core
