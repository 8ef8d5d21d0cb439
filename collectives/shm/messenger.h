#pragma once

/// Messages between the ranks of a host.

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "shm/host.h"

namespace kolo::core::shm {

/// Nothing blocks; messages from one rank to another arrive in the order in which they were sent. A
/// message that does not fit into the ring goes through it in pieces, as the receiver makes room.
///
/// A few ranks look at the rings themselves, whose cells say that they were written: a short
/// message is one line of the cache on its way. Many ranks would look at as many lines, on a page
/// each, mostly in vain; there who writes leaves a notice, all of a rank's notices are a line or
/// two, and only rings whose writers have left one are looked at.
///
/// Happens-before: a notice is stored after the frame that it is about, or the ring's end, was
/// written (release, acquire), so who sees it finds that. It is the number of frames, and 1 for the
/// end, modulo 2^16: more than a ring holds, so what has been read cannot be mistaken for what has
/// been written.
///
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
    /// Valid until the next call; to be moved out, or swapped for other memory, by who wants to
    /// keep it.
    std::vector<std::byte>& bytes;
  };
  /// The next message that has arrived whole; also moves what is under way.
  std::optional<Message> receive();

  /// For good: nothing more is sent to that rank, nor what waits for room, and it is told so.
  void break_off(int local_rank);
  /// Whether this rank has broken off, or that one has and all that it had sent has been received.
  bool broken_off(int local_rank) const;
  /// Whether that holds for any rank.
  bool any_broken_off() const { return any_broken_off_; }

  /// Whether some of what was sent, to this rank or to any, waits for room, and so for receive().
  bool sending_to(int local_rank) const;
  bool sending() const { return crowded_rings_ > 0; }

 private:
  struct Outgoing {
    RingWriter ring;
    Notice* notice;
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
  void leave_notice(const Outgoing& outgoing) const;
  bool may_have_written(int local_rank) const;
  bool write(int local_rank, std::span<const std::byte> head, std::span<const std::byte> body);

  const std::shared_ptr<const Host> host_;
  /// By local rank; the own ones are not used.
  std::vector<Outgoing> outgoing_;
  std::vector<Incoming> incoming_;
  /// Those that something waits for room in.
  int crowded_rings_ = 0;
  bool any_broken_off_ = false;
  /// Where notices are left, and what they said when the rings were last looked at.
  const bool by_notice_;
  const Notice* const notices_;
  std::vector<std::uint16_t> seen_;
  /// Where to look first, so that no rank is overheard for another.
  int next_ = 0;
};

}  // namespace kolo::core::shm
