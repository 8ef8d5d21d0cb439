#pragma once

/// Messages as bytes: version, kind, fields; little-endian, lengths before what they count.

#include <cstddef>
#include <memory>
#include <span>
#include <vector>

#include "base/status.h"
#include "wire/messages.h"

namespace kolo::core {

std::vector<std::byte> encode(const Message& message);

/// Reads what encode() has written, all of it. Fails on bytes of another version, cut short, too long,
/// or with a value that its field cannot have; never reads outside `bytes`, and never allocates more
/// than a small multiple of their size.
Result<Message> decode(std::span<const std::byte> bytes);

/// Ranks mostly say the same, one after the other: that is read once.
class Decoder {
 public:
  /// As decode(). The same bytes as the last time give the same message.
  Result<std::shared_ptr<const Message>> operator()(std::vector<std::byte> bytes);

 private:
  /// Those of message_, if there is one.
  std::vector<std::byte> bytes_;
  std::shared_ptr<const Message> message_;
};

}  // namespace kolo::core
