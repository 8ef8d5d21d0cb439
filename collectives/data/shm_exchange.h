#pragma once

/// What the members of operations tell each other over shared memory: short signals, each about one
/// operation. The bulk is read and written in place.

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "base/types.h"
#include "shm/messenger.h"

namespace kolo::core {

/// What one member of an operation has told this one. Signals of a pair arrive in order, so
/// counting them says how far the other is; what it had written to memory before a signal is seen
/// by who has received it (see shm/ring.h).
struct ShmMember {
  /// It has begun, and this is what it brings.
  bool arrived = false;
  bool declined = false;
  std::uint64_t bytes = 0;
  /// The bytes themselves, when they are few, behind their signal; later a result that it tells in
  /// the same way. Else, if they are in its arena, their place there.
  std::vector<std::byte> message;
  bool direct = false;
  std::uint64_t place = 0;

  /// Steps for which it has filled its slots, and in which it has finished its part.
  std::int64_t filled = 0;
  std::int64_t finished = 0;
  /// Its slots, in its arena.
  std::uint64_t filled_place = 0;
  std::uint64_t finished_place = 0;

  /// It has abandoned the operation.
  bool gave_up = false;

  const std::byte* payload() const;
};

struct ShmSignal {
  enum class Kind : std::uint32_t {
    ArrivedWithPayload,
    ArrivedDirect,
    ArrivedStaged,
    ArrivedDeclining,
    Filled,
    Finished,
    FinishedWithPayload,
    GaveUp
  };

  Kind kind = Kind::GaveUp;
  ChannelId channel = 0;
  std::uint64_t sequence = 0;
  /// Of those who arrive: what they bring.
  std::uint64_t bytes = 0;
  /// In the sender's arena.
  std::uint64_t place = 0;
};

/// Used by one thread at a time.
class ShmExchange {
 public:
  using Key = std::pair<ChannelId, std::uint64_t>;
  /// What is known of one operation.
  struct Members {
    /// By local rank; and which of them have told anything.
    std::vector<ShmMember> each;
    std::vector<bool> told;
    int arrived = 0;
    bool any_gave_up = false;
  };

  explicit ShmExchange(std::shared_ptr<const shm::Host> host);

  /// What is known of an operation, also of one that this rank has not begun. Valid until
  /// forgotten.
  Members& about(Key key);
  void forget(Key key);

  void tell(int local_rank, const ShmSignal& signal, std::span<const std::byte> payload = {});
  /// Without waking the other for it.
  void tell_quietly(int local_rank, const ShmSignal& signal);
  /// Tells that this member has given up an operation. It may never look at the ring again to send
  /// what waits for room, so when there is none, it breaks off instead.
  void give_up(int local_rank, const ShmSignal& signal);
  /// Takes in whatever has arrived, about whichever operation.
  void listen();
  bool telling(int local_rank) const { return messenger_.sending_to(local_rank); }
  /// Whether that holds for any rank.
  bool telling() const { return messenger_.sending(); }
  /// Whether signals, to that rank or from it, are lost: to wait for any is in vain.
  bool broken_off(int local_rank) const { return messenger_.broken_off(local_rank); }
  bool any_broken_off() const { return messenger_.any_broken_off(); }

 private:
  const std::shared_ptr<const shm::Host> host_;
  shm::Messenger messenger_;
  /// Between a member's first signal, or the own beginning, and the end.
  std::map<Key, Members> known_;
  /// Of operations that have ended, so that small ones need no new memory.
  std::vector<std::map<Key, Members>::node_type> spare_;
};

}  // namespace kolo::core
