#include <cstring>
#include <vector>

#include "data/mpi_operations.h"

namespace kolo::core {
namespace {

/// Every member sends its part to every other.
class DirectAllgather final : public MpiOperation {
 public:
  DirectAllgather(const MpiSetup& setup, const Collective& collective)
      : MpiOperation(setup, collective), chunk_bytes_(setup.chunk_bytes) {
    const Chunks place = part(collective.member);
    if (place.bytes > 0 && place.begin != collective.input) {
      std::memmove(place.begin, collective.input, static_cast<std::size_t>(place.bytes));
    }
    own_ = place;
    for (const int member : peers()) {
      peers_.push_back({.part = part(member),
                        .in = open_lane(Direction::Receive, member, 0),
                        .out = open_lane(Direction::Send, member, 0)});
    }
  }

 private:
  struct Peer {
    Chunks part;
    Lane in;
    Lane out;
  };

  /// A member's place in the output.
  Chunks part(int member) const {
    const std::vector<std::int64_t>& counts = collective().counts;
    std::int64_t before = 0;
    for (int i = 0; i < member; ++i) before += counts[static_cast<std::size_t>(i)];
    return {static_cast<std::byte*>(collective().output) + bytes_of(before),
            bytes_of(counts[static_cast<std::size_t>(member)]), chunk_bytes_};
  }

  Result<bool> advance() override {
    bool done = true;
    for (Peer& peer : peers_) {
      Status status = peer.in.post(peer.part, peer.part.count());
      if (status.ok()) status = peer.out.post(own_, own_.count());
      if (!status.ok()) return status;
      done =
          done && peer.in.completed() == peer.part.count() && peer.out.completed() == own_.count();
    }
    return done;
  }

  const std::int64_t chunk_bytes_;
  /// This member's part, copied to its place: sent from there.
  Chunks own_;
  std::vector<Peer> peers_;
};

}  // namespace

StartedOperation start_allgather(const MpiSetup& setup, const Collective& collective) {
  return MpiOperation::begin(std::make_unique<DirectAllgather>(setup, collective));
}

}  // namespace kolo::core
