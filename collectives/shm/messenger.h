#pragma once

/// Messages between the ranks of a host.

#include <cstddef>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "shm/host.h"

namespace kolo::core::shm {

/// Nothing blocks; messages from one rank to another arrive in the order in which they were sent. A
/// message that does not fit into the ring goes through it in pieces, as the receiver makes room.
/// Used by one thread at a time.
class Messenger {
 public:
  Messenger(std::shared_ptr<const Host> host, Section section);

  /// Takes a copy of both parts, which arrive as one message, and rings the receiver's doorbell.
  void send(int local_rank, std::span<const std::byte> head, std::span<const std::byte> body = {});
  /// The same without a ring, for what the receiver need not see before it looks.
  void leave(int local_rank, std::span<const std::byte> head);

  struct Message {
    int local_rank = 0;
    /// Valid until the next call, and to be swapped for other memory by who wants to keep it.
    std::vector<std::byte>& bytes;
  };
  /// The next message that has arrived whole; also moves what is under way.
  std::optional<Message> receive();

  /// For good: nothing more is sent to that rank, nor what waits for room, and it is told so.
  void break_off(int local_rank);
  /// Whether this rank has broken off, or that one has and all that it had sent has been received.
  bool broken_off(int local_rank) const;

  /// Whether some of what was sent, to this rank or to any, waits for room, and so for receive().
  bool sending_to(int local_rank) const;
  bool sending() const;

 private:
  struct Outgoing {
    RingWriter ring;
    /// Messages that have yet to go, and how much of the first one has.
    std::deque<std::vector<std::byte>> rest;
    std::size_t gone = 0;
    bool ended = false;
  };
  struct Incoming {
    RingReader ring;
    std::vector<std::byte> bytes;
    /// They are the beginning of a message.
    bool goes_on = false;
    bool ended = false;

    bool take();
  };

  void flush(int local_rank);
  bool write(int local_rank, std::span<const std::byte> head, std::span<const std::byte> body);

  const std::shared_ptr<const Host> host_;
  /// By local rank; the own ones are not used.
  std::vector<Outgoing> outgoing_;
  std::vector<Incoming> incoming_;
  /// Where to look first, so that no rank is overheard for another.
  int next_ = 0;
};

}  // namespace kolo::core::shm
