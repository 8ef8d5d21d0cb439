#include <optional>
#include <vector>

#include "data/mpi_operations.h"

namespace kolo::core {
namespace {

/// A binomial tree of members, numbered from the root on: the parent of number n is n without its
/// lowest bit. Chunks go down the tree as they come.
class TreeBroadcast final : public MpiOperation {
 public:
  TreeBroadcast(const MpiSetup& setup, const Collective& collective)
      : MpiOperation(setup, collective),
        chunks_{static_cast<std::byte*>(collective.output), bytes_of(collective.count),
                setup.chunk_bytes} {
    const int root = collective.root_member;
    const int number = (collective.member - root + members()) % members();
    const auto member = [&](int other) { return (other + root) % members(); };
    if (number != 0) parent_ = open_lane(Direction::Receive, member(number & (number - 1)), 0);
    int bit = 1;
    while (bit < members() && (number & bit) == 0) bit *= 2;
    // The largest subtrees first.
    for (bit /= 2; bit != 0; bit /= 2) {
      if (number + bit >= members()) continue;
      children_.push_back(open_lane(Direction::Send, member(number + bit), 0));
    }
  }

 private:
  Result<bool> advance() override {
    std::int64_t present = chunks_.count();
    if (parent_) {
      if (Status status = parent_->post(chunks_, chunks_.count()); !status.ok()) return status;
      present = parent_->completed();
    }
    bool done = present == chunks_.count();
    for (Lane& child : children_) {
      if (Status status = child.post(chunks_, present); !status.ok()) return status;
      done = done && child.completed() == chunks_.count();
    }
    return done;
  }

  const Chunks chunks_;
  /// Of all members but the root.
  std::optional<Lane> parent_;
  std::vector<Lane> children_;
};

}  // namespace

StartedOperation start_broadcast(const MpiSetup& setup, const Collective& collective) {
  return MpiOperation::begin(std::make_unique<TreeBroadcast>(setup, collective));
}

}  // namespace kolo::core
