#pragma once

/// Bytes from one process to another, through memory that both map.

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <span>

namespace kolo::core::shm {

/// The shared part; zeros are an empty ring. One thread writes, one reads.
///
/// Happens-before: what was written into `bytes` is seen by who reads the value of `written` that
/// was stored after it (release, acquire), and a place is free for who reads the value of `read`
/// that was stored after it had been emptied. `starved` and `read` are in one order with each other
/// (seq_cst): either the reader sees that the writer waits for room, or the writer sees the room.
/// Who sees that the ring is `ended` sees all that was written (release, acquire).
struct Ring {
  static constexpr std::size_t kBytes = std::size_t{64} << 10;

  /// Bytes ever written, and whether the writer will write no more.
  alignas(64) std::atomic<std::uint64_t> written;
  std::atomic<std::uint32_t> ended;
  /// Bytes ever read, and whether the writer waits for room.
  alignas(64) std::atomic<std::uint64_t> read;
  std::atomic<std::uint32_t> starved;
  alignas(64) std::array<std::byte, kBytes> bytes;
};
static_assert(std::atomic<std::uint64_t>::is_always_lock_free);

class RingWriter {
 public:
  explicit RingWriter(Ring& ring) : ring_(&ring) {}

  /// Writes as much as there is room for; the reader sees it after publish(). The number of bytes.
  std::size_t write(std::span<const std::byte> from) {
    if (from.size() > room()) read_ = ring_->read.load(std::memory_order_acquire);
    const std::size_t count = std::min(from.size(), room());
    const std::size_t place = written_ % Ring::kBytes;
    const std::size_t first = std::min(count, Ring::kBytes - place);
    if (first > 0) std::memcpy(ring_->bytes.data() + place, from.data(), first);
    if (count > first) std::memcpy(ring_->bytes.data(), from.data() + first, count - first);
    written_ += count;
    return count;
  }

  void publish() { ring_->written.store(written_, std::memory_order_release); }

  void end() { ring_->ended.store(1, std::memory_order_release); }

  /// Asks the reader to say when there is room. True when there is some already.
  bool wait_for_room() {
    ring_->starved.store(1, std::memory_order_seq_cst);
    read_ = ring_->read.load(std::memory_order_seq_cst);
    return room() > 0;
  }

 private:
  std::size_t room() const { return Ring::kBytes - static_cast<std::size_t>(written_ - read_); }

  Ring* ring_;
  std::uint64_t written_ = 0;
  /// As last looked up.
  std::uint64_t read_ = 0;
};

class RingReader {
 public:
  explicit RingReader(Ring& ring) : ring_(&ring) {}

  /// Bytes that can be read; looks anew when it knows of less than `wanted`.
  std::size_t available(std::size_t wanted = 1) {
    if (written_ - read_ < wanted) written_ = ring_->written.load(std::memory_order_acquire);
    return static_cast<std::size_t>(written_ - read_);
  }

  /// Whether nothing comes after what is available from now on.
  bool ended() const { return ring_->ended.load(std::memory_order_acquire) != 0; }

  /// `to` must not be larger than what is available.
  void read(std::span<std::byte> to) {
    const std::size_t place = read_ % Ring::kBytes;
    const std::size_t first = std::min(to.size(), Ring::kBytes - place);
    if (first > 0) std::memcpy(to.data(), ring_->bytes.data() + place, first);
    if (to.size() > first) std::memcpy(to.data() + first, ring_->bytes.data(), to.size() - first);
    read_ += to.size();
  }

  /// Lets the writer use again what has been read. True when it has been waiting for that.
  bool release() {
    ring_->read.store(read_, std::memory_order_seq_cst);
    return ring_->starved.load(std::memory_order_seq_cst) != 0 &&
           ring_->starved.exchange(0, std::memory_order_seq_cst) != 0;
  }

 private:
  Ring* ring_;
  std::uint64_t read_ = 0;
  /// As last looked up.
  std::uint64_t written_ = 0;
};

}  // namespace kolo::core::shm
