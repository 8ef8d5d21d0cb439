#include <algorithm>
#include <array>
#include <cstring>
#include <utility>
#include <vector>

#include "data/mpi_operations.h"
#include "data/reduce.h"

namespace kolo::core {
namespace {

/// All members' vectors meet in scratch memory, in member order.
class DirectAllreduce final : public MpiOperation {
 public:
  DirectAllreduce(const MpiSetup& setup, const Collective& collective)
      : MpiOperation(setup, collective) {
    const std::int64_t bytes = bytes_of(collective.count);
    vectors_ = {exchange().allocate_scratch(members() * bytes), members() * bytes, bytes};
    std::memcpy(vectors_[collective.member].data(), collective.output,
                static_cast<std::size_t>(bytes));
    for (const int member : peers()) {
      peers_.push_back({member, open_lane(Direction::Receive, member, 0),
                        open_lane(Direction::Send, member, 0)});
    }
  }

 private:
  struct Peer {
    int member;
    Lane in;
    Lane out;
  };

  Result<bool> advance() override {
    if (!posted_) {
      if (Status status = post(); !status.ok()) return status;
      posted_ = true;
    }
    const auto complete = [](Lane& lane) { return lane.completed() == 1; };
    if (!reduced_ && std::ranges::all_of(peers_, complete, &Peer::in)) {
      reduce_vectors();
      reduced_ = true;
    }
    return reduced_ && std::ranges::all_of(peers_, complete, &Peer::out);
  }

  Status post() {
    for (Peer& peer : peers_) {
      if (Status status = peer.in.post(vectors_[peer.member]); !status.ok()) return status;
    }
    for (Peer& peer : peers_) {
      Status status = peer.out.post(vectors_[collective().member]);
      if (!status.ok()) return status;
    }
    return {};
  }

  void reduce_vectors() {
    std::vector<const void*> inputs;
    for (int member = 0; member < members(); ++member) inputs.push_back(vectors_[member].data());
    void* const output = collective().output;
    reduce(collective().dtype, collective().op, inputs, {&output, 1}, collective().count,
           collective().prescale, collective().postscale);
  }

  Chunks vectors_;
  std::vector<Peer> peers_;
  bool posted_ = false;
  bool reduced_ = false;
};

// Slices begin at a multiple of a cache line's size.
constexpr std::int64_t kSliceUnit = 64;

// Limit of the memory into which an operation receives parts ahead of their reduction. With many
// members chunks become smaller for it, though not smaller than a network likes them.
constexpr std::int64_t kScratchBytes = std::int64_t{16} << 20;
constexpr std::int64_t kSmallestChunk = std::int64_t{64} << 10;

std::int64_t largest_chunk(int members) {
  const std::int64_t share = kScratchBytes / (kWindow * members);
  return std::max(kSmallestChunk, share - share % kSliceUnit);
}

/// Each member owns a slice of the vector. It receives the others' parts of it chunk by chunk,
/// reduces a chunk when all its parts are there, and sends it to all others at once. So every chunk
/// is reduced in one go, in member order, by one member; and while one is being reduced, others are
/// under way.
class SlicedAllreduce final : public MpiOperation {
 public:
  SlicedAllreduce(const MpiSetup& setup, const Collective& collective)
      : MpiOperation(setup, collective),
        chunk_bytes_(std::min(setup.chunk_bytes, largest_chunk(members()))),
        own_(slice(collective.member)) {
    const std::int64_t place_bytes = std::min(chunk_bytes_, own_.bytes);
    const std::int64_t peer_bytes = place_bytes * std::min(kWindow, own_.count());
    std::byte* scratch = exchange().allocate_scratch(peer_bytes * (members() - 1));
    for (const int member : peers()) {
      peers_.push_back({.member = member,
                        .slice = slice(member),
                        .scratch = {scratch, peer_bytes, place_bytes},
                        .parts_in = open_lane(Direction::Receive, member, 0),
                        .parts_out = open_lane(Direction::Send, member, 0),
                        .results_in = open_lane(Direction::Receive, member, 1),
                        .results_out = open_lane(Direction::Send, member, 1)});
      scratch += peer_bytes;
    }
  }

 private:
  struct Peer {
    int member;
    /// What it owns.
    Chunks slice;
    /// Where its parts of our slice arrive: the one of chunk i in place i modulo kWindow.
    Chunks scratch;
    Lane parts_in;
    /// Our parts of its slice, straight from the vector.
    Lane parts_out;
    /// Its slice as reduced, over the parts that have been sent.
    Lane results_in;
    /// Our slice as reduced.
    Lane results_out;

    std::span<std::byte> part(std::int64_t chunk, std::size_t bytes) const {
      return scratch[chunk % kWindow].first(bytes);
    }
  };

  Chunks slice(int member) const {
    const std::int64_t bytes = bytes_of(collective().count);
    const std::int64_t units = (bytes + kSliceUnit - 1) / kSliceUnit;
    const std::int64_t begin = std::min(units * member / members() * kSliceUnit, bytes);
    const std::int64_t end = std::min(units * (member + 1) / members() * kSliceUnit, bytes);
    return {static_cast<std::byte*>(collective().output) + begin, end - begin, chunk_bytes_};
  }

  Result<bool> advance() override {
    do {
      for (Peer& peer : peers_) {
        if (Status status = post(peer); !status.ok()) return status;
      }
    } while (reduce_next());
    bool done = reduced_ == own_.count();
    for (Peer& peer : peers_) {
      done = done && peer.results_out.completed() == own_.count() &&
             peer.results_in.completed() == peer.slice.count();
    }
    return done;
  }

  Status post(Peer& peer) {
    Status status;
    // There is room: what is reduced has been received.
    while (status.ok() && peer.parts_in.posted() < std::min(reduced_ + kWindow, own_.count())) {
      const std::int64_t chunk = peer.parts_in.posted();
      status = peer.parts_in.post(peer.part(chunk, own_[chunk].size()));
    }
    if (status.ok()) status = peer.parts_out.post(peer.slice, peer.slice.count());
    if (status.ok()) status = peer.results_in.post(peer.slice, peer.parts_out.completed());
    if (status.ok()) status = peer.results_out.post(own_, reduced_);
    return status;
  }

  /// Whether there was a chunk with all its parts.
  bool reduce_next() {
    const auto has_part = [this](Lane& lane) { return lane.completed() > reduced_; };
    if (reduced_ == own_.count() || !std::ranges::all_of(peers_, has_part, &Peer::parts_in)) {
      return false;
    }
    const std::span<std::byte> result = own_[reduced_];
    std::vector<const void*> inputs(collective().ranks.size());
    inputs[static_cast<std::size_t>(collective().member)] = result.data();
    for (const Peer& peer : peers_) {
      inputs[static_cast<std::size_t>(peer.member)] = peer.part(reduced_, result.size()).data();
    }
    void* const output = result.data();
    const std::size_t count = result.size() / size_of(collective().dtype);
    reduce(collective().dtype, collective().op, inputs, {&output, 1},
           static_cast<std::int64_t>(count), collective().prescale, collective().postscale);
    ++reduced_;
    return true;
  }

  const std::int64_t chunk_bytes_;
  const Chunks own_;
  std::int64_t reduced_ = 0;
  std::vector<Peer> peers_;
};

}  // namespace

StartedOperation start_direct_allreduce(const MpiSetup& setup, const Collective& collective) {
  return MpiOperation::begin(std::make_unique<DirectAllreduce>(setup, collective));
}

StartedOperation start_sliced_allreduce(const MpiSetup& setup, const Collective& collective) {
  return MpiOperation::begin(std::make_unique<SlicedAllreduce>(setup, collective));
}

}  // namespace kolo::core
