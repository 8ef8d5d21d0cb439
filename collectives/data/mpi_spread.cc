#include <cstring>
#include <vector>

#include "data/mpi_operations.h"

namespace kolo::core {
namespace {

/// Every member gives each other a part, which may be the same for all: an all-gather, an
/// all-to-all.
class Spread final : public MpiOperation {
 public:
  Spread(const MpiSetup& setup, const Collective& collective)
      : MpiOperation(setup, collective), chunk_bytes_(setup.chunk_bytes) {
    const Chunks own = given_to(collective.member);
    const Chunks place = taken_from(collective.member);
    if (own.bytes > 0 && own.begin != place.begin) {
      std::memmove(place.begin, own.begin, static_cast<std::size_t>(own.bytes));
    }
    for (const int member : peers()) {
      peers_.push_back({.taken = taken_from(member),
                        .given = given_to(member),
                        .in = open_lane(Direction::Receive, member, 0),
                        .out = open_lane(Direction::Send, member, 0)});
    }
  }

 private:
  struct Peer {
    Chunks taken;
    Chunks given;
    Lane in;
    Lane out;
  };

  Chunks given_to(int member) const {
    const std::vector<std::int64_t>& splits = collective().splits;
    if (splits.empty()) {
      return input_chunks(collective(), 0, input_count(collective()), chunk_bytes_);
    }
    const auto index = static_cast<std::size_t>(member);
    return input_chunks(collective(), elements_before(splits, index), splits[index], chunk_bytes_);
  }

  /// A member's place in the output.
  Chunks taken_from(int member) const {
    const auto index = static_cast<std::size_t>(member);
    const std::int64_t before = elements_before(collective().counts, index);
    return {static_cast<std::byte*>(collective().output) + bytes_of(before),
            bytes_of(collective().counts[index]), chunk_bytes_};
  }

  Result<bool> advance() override {
    bool done = true;
    for (Peer& peer : peers_) {
      Status status = peer.in.post(peer.taken, peer.taken.count());
      if (status.ok()) status = peer.out.post(peer.given, peer.given.count());
      if (!status.ok()) return status;
      done = done && peer.in.completed() == peer.taken.count() &&
             peer.out.completed() == peer.given.count();
    }
    return done;
  }

  const std::int64_t chunk_bytes_;
  std::vector<Peer> peers_;
};

}  // namespace

StartedOperation start_spread(const MpiSetup& setup, const Collective& collective) {
  return MpiOperation::begin(std::make_unique<Spread>(setup, collective));
}

}  // namespace kolo::core
