#pragma once

/// Frames of bytes from one process to another, through memory that both map.

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>

namespace kolo::core::shm {

/// The shared part; zeros are an empty ring. One thread writes, one reads.
///
/// A frame's first bytes are in a cell, a line of the cache whose stamp says that the frame is
/// there: who waits for a short one gets it with the line that it looks at, as with Open MPI's fast
/// boxes, and need not fetch a counter before. A stamp holds the lap, so an earlier frame's is not
/// mistaken for it. A longer frame has only its head there, and the other bytes in `bulk`, at the
/// beginning of a line: what comes after the head of a message is copied by whole lines.
///
/// The cell is written last. Its reader looks at it all the time, and so takes the line away from
/// who writes it; in the time of the bulk that would happen between its bytes and its stamp.
///
/// Happens-before: what was written into cell and `bulk` is seen by who reads the stamp that was
/// stored after it (release, acquire), and a place is free for who reads the values of `read` and
/// `emptied` that were stored after it had been read. `starved` and `read` are in one order with
/// each other (seq_cst): either the reader sees that the writer waits for room, or the writer sees
/// the room. Who sees that the ring is `ended` sees all that was written (release, acquire).
struct Ring {
  struct alignas(64) Cell {
    static constexpr std::size_t kBytes = 56;
    static constexpr std::size_t kHeadBytes = 32;

    std::atomic<std::uint64_t> stamp;
    std::array<std::byte, kBytes> bytes;
  };
  static constexpr std::size_t kCells = 256;
  static constexpr std::size_t kBulkBytes = std::size_t{64} << 10;
  /// So that a large message's receiver reads some frames while others are written.
  static constexpr std::size_t kMostInFrame = kBulkBytes / 4;

  struct Frame {
    std::size_t bytes = 0;
    /// The next frame goes on with the same message.
    bool goes_on = false;

    std::size_t in_cell() const { return bytes > Cell::kBytes ? Cell::kHeadBytes : bytes; }
    std::size_t in_bulk() const { return bytes - in_cell(); }
    /// Whole lines, so that none is written and read for two frames.
    std::size_t place_in_bulk() const { return (in_bulk() + 63) / 64 * 64; }
    /// As frame number `number`, counted from the first ever.
    std::uint64_t stamp(std::uint64_t number) const {
      return (number / kCells + 1) << 32 | bytes << 1 | static_cast<std::uint64_t>(goes_on);
    }
  };

  /// Whether the writer will write no more.
  alignas(64) std::atomic<std::uint32_t> ended;
  /// Frames ever read, their places in bulk, and whether the writer waits for room.
  alignas(64) std::atomic<std::uint64_t> read;
  std::atomic<std::uint64_t> emptied;
  std::atomic<std::uint32_t> starved;
  std::array<Cell, kCells> cells;
  alignas(64) std::array<std::byte, kBulkBytes> bulk;
};
static_assert(std::atomic<std::uint64_t>::is_always_lock_free && sizeof(Ring::Cell) == 64);

class RingWriter {
 public:
  explicit RingWriter(Ring& ring) : ring_(&ring) {}

  /// Both parts as one frame, at most kMostInFrame bytes. False if there is no room.
  bool write(std::span<const std::byte> head, std::span<const std::byte> body, bool goes_on) {
    const Ring::Frame frame{head.size() + body.size(), goes_on};
    if (!fits(frame)) look_for_room(std::memory_order_acquire);
    if (!fits(frame)) return false;
    const auto first = head.first(std::min(head.size(), frame.in_cell()));
    const auto second = body.first(std::min(body.size(), frame.in_cell() - first.size()));
    const auto head_in_bulk = head.subspan(first.size());
    fill_bulk(filled_, head_in_bulk);
    fill_bulk(filled_ + head_in_bulk.size(), body.subspan(second.size()));
    Ring::Cell& cell = ring_->cells[written_ % Ring::kCells];
    copy(first, cell.bytes.data());
    copy(second, cell.bytes.data() + first.size());
    cell.stamp.store(frame.stamp(written_), std::memory_order_release);
    ++written_;
    filled_ += frame.place_in_bulk();
    return true;
  }

  void end() { ring_->ended.store(1, std::memory_order_release); }

  /// Frames.
  std::uint64_t written() const { return written_; }

  /// Asks the reader to say when there is room. True when there is some already.
  bool wait_for_room(std::size_t bytes) {
    ring_->starved.store(1, std::memory_order_seq_cst);
    look_for_room(std::memory_order_seq_cst);
    return fits({.bytes = bytes});
  }

 private:
  bool fits(const Ring::Frame& frame) const {
    return written_ - read_ < Ring::kCells &&
           filled_ - emptied_ + frame.place_in_bulk() <= Ring::kBulkBytes;
  }

  void look_for_room(std::memory_order order) {
    read_ = ring_->read.load(order);
    emptied_ = ring_->emptied.load(std::memory_order_acquire);
  }

  void fill_bulk(std::uint64_t begin, std::span<const std::byte> from) {
    const std::size_t place = begin % Ring::kBulkBytes;
    const auto until_end = from.first(std::min(from.size(), Ring::kBulkBytes - place));
    copy(until_end, ring_->bulk.data() + place);
    copy(from.subspan(until_end.size()), ring_->bulk.data());
  }

  /// An empty span may have no memory, which memcpy must not be given.
  static void copy(std::span<const std::byte> from, std::byte* to) {
    if (!from.empty()) std::memcpy(to, from.data(), from.size());
  }

  Ring* ring_;
  /// Frames, and their places in bulk.
  std::uint64_t written_ = 0;
  std::uint64_t filled_ = 0;
  /// As last looked up.
  std::uint64_t read_ = 0;
  std::uint64_t emptied_ = 0;
};

class RingReader {
 public:
  explicit RingReader(Ring& ring) : ring_(&ring) {}

  /// The next frame, if it is there.
  std::optional<Ring::Frame> next() const {
    fetch_bulk();
    const Ring::Cell& cell = ring_->cells[read_ % Ring::kCells];
    const std::uint64_t stamp = cell.stamp.load(std::memory_order_acquire);
    const Ring::Frame frame{(stamp & 0xffff'ffff) >> 1, (stamp & 1) != 0};
    if (stamp != frame.stamp(read_)) return std::nullopt;
    return frame;
  }

  /// Takes it.
  void read(const Ring::Frame& frame, std::byte* to) {
    const std::size_t in_cell = frame.in_cell();
    if (in_cell > 0) std::memcpy(to, ring_->cells[read_ % Ring::kCells].bytes.data(), in_cell);
    ++read_;
    const std::size_t in_bulk = frame.in_bulk();
    latest_in_bulk_ = in_bulk;
    if (in_bulk == 0) return;
    const std::size_t place = emptied_ % Ring::kBulkBytes;
    const std::size_t first = std::min(in_bulk, Ring::kBulkBytes - place);
    std::memcpy(to + in_cell, ring_->bulk.data() + place, first);
    std::memcpy(to + in_cell + first, ring_->bulk.data(), in_bulk - first);
    emptied_ += frame.place_in_bulk();
  }

  /// Those that were read.
  std::uint64_t frames() const { return read_; }

  /// Whether nothing comes after what is there from now on.
  bool ended() const { return ring_->ended.load(std::memory_order_acquire) != 0; }

  /// Whether anything that was read is not released yet; and whether the writer may soon need it.
  bool holds() const { return read_ != released_; }
  bool holds_much() const {
    return read_ - released_ > Ring::kCells / 2 || emptied_ - released_bulk_ > Ring::kBulkBytes / 2;
  }

  /// Lets the writer use again what has been read. True when it has been waiting for that.
  bool release() {
    released_ = read_;
    released_bulk_ = emptied_;
    ring_->emptied.store(emptied_, std::memory_order_release);
    ring_->read.store(read_, std::memory_order_seq_cst);
    return ring_->starved.load(std::memory_order_seq_cst) != 0 &&
           ring_->starved.exchange(0, std::memory_order_seq_cst) != 0;
  }

 private:
  /// Frames are often followed by others of their size: so what comes in bulk is on its way from the
  /// writer's core while the cell is, and not after it. Many lines come faster by themselves.
  void fetch_bulk() const {
    if (latest_in_bulk_ > kMostFetched) return;
    for (std::size_t begin = 0; begin < latest_in_bulk_; begin += 64) {
      __builtin_prefetch(&ring_->bulk[(emptied_ + begin) % Ring::kBulkBytes]);
    }
  }

  static constexpr std::size_t kMostFetched = 256;

  Ring* ring_;
  std::size_t latest_in_bulk_ = 0;
  /// Frames, and their places in bulk; and what of these is released.
  std::uint64_t read_ = 0;
  std::uint64_t emptied_ = 0;
  std::uint64_t released_ = 0;
  std::uint64_t released_bulk_ = 0;
};

}  // namespace kolo::core::shm
