#include <algorithm>
#include <array>
#include <cstring>
#include <utility>
#include <vector>

#include "data/mpi_slices.h"
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

std::vector<Chunks> slices_of(const MpiSetup& setup, const Collective& c) {
  const auto members = static_cast<std::int64_t>(c.ranks.size());
  const std::int64_t bytes = c.count * static_cast<std::int64_t>(size_of(c.dtype));
  const std::int64_t units = (bytes + kSliceUnit - 1) / kSliceUnit;
  const auto border = [&](std::int64_t before) {
    return std::min(units * before / members * kSliceUnit, bytes);
  };
  std::vector<Chunks> slices;
  for (std::int64_t member = 0; member < members; ++member) {
    slices.push_back({static_cast<std::byte*>(c.output) + border(member),
                      border(member + 1) - border(member), setup.chunk_bytes});
  }
  return slices;
}

/// Each member reduces its slice in place, and sends what is reduced to all others at once.
class SlicedAllreduce final : public SlicedReduction {
 public:
  SlicedAllreduce(const MpiSetup& setup, const Collective& collective)
      : SlicedAllreduce(setup, collective, slices_of(setup, collective)) {}

 private:
  /// Between this member and another.
  struct Results {
    /// The other's slice as reduced, over our parts that have been sent.
    Lane in;
    /// Our slice as reduced.
    Lane out;
  };

  SlicedAllreduce(const MpiSetup& setup, const Collective& collective, std::vector<Chunks> slices)
      : SlicedReduction(setup, collective, slices,
                        slices[static_cast<std::size_t>(collective.member)].begin) {
    for (const int member : peers()) {
      results_.push_back({.in = open_lane(Direction::Receive, member, 1),
                          .out = open_lane(Direction::Send, member, 1)});
    }
  }

  Result<bool> advance() override {
    do {
      for (std::size_t peer = 0; peer < results_.size(); ++peer) {
        if (Status status = post(parts()[peer], results_[peer]); !status.ok()) return status;
      }
    } while (reduce_next());
    bool done = reduced() == result().count();
    for (std::size_t peer = 0; peer < results_.size(); ++peer) {
      done = done && results_[peer].out.completed() == result().count() &&
             results_[peer].in.completed() == parts()[peer].slice.count();
    }
    return done;
  }

  Status post(Parts& parts, Results& results) {
    Status status = SlicedReduction::post(parts);
    if (status.ok()) status = results.in.post(parts.slice, parts.out.completed());
    if (status.ok()) status = results.out.post(result(), reduced());
    return status;
  }

  /// In the order of peers().
  std::vector<Results> results_;
};

}  // namespace

StartedOperation start_direct_allreduce(const MpiSetup& setup, const Collective& collective) {
  return MpiOperation::begin(std::make_unique<DirectAllreduce>(setup, collective));
}

StartedOperation start_sliced_allreduce(const MpiSetup& setup, const Collective& collective) {
  return MpiOperation::begin(std::make_unique<SlicedAllreduce>(setup, collective));
}

}  // namespace kolo::core
