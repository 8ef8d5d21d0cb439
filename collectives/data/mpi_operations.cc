#include "data/mpi_operations.h"

#include <algorithm>
#include <utility>

namespace kolo::core {

Chunks input_chunks(const Collective& collective, std::int64_t begin, std::int64_t count,
                    std::int64_t chunk_bytes) {
  const auto element = static_cast<std::int64_t>(size_of(collective.dtype));
  // A lane that sends does not write there.
  auto* const input = static_cast<std::byte*>(const_cast<void*>(collective.input));
  return {input + begin * element, count * element, chunk_bytes};
}

StartedOperation MpiOperation::begin(std::unique_ptr<MpiOperation> operation) {
  const Result<bool> done = operation->advance();
  if (!done.ok()) return done.status();
  return std::unique_ptr<Operation>(std::move(operation));
}

Result<Operation::Progress> MpiOperation::progress() {
  const Result<bool> moved = exchange_.poll();
  if (!moved.ok()) return moved.status();
  const Result<bool> done = advance();
  if (!done.ok()) return done.status();
  if (done.value()) return Progress::Done;
  return moved.value() ? Progress::Moved : Progress::Waiting;
}

std::vector<int> MpiOperation::missing() const {
  std::vector<int> missing;
  for (const int rank : exchange_.silent_ranks()) {
    missing.push_back(static_cast<int>(std::ranges::find(collective_.ranks, rank) -
                                       collective_.ranks.begin()));
  }
  return missing;
}

std::vector<int> MpiOperation::peers() const {
  std::vector<int> peers;
  for (int i = 1; i < members(); ++i) peers.push_back((collective_.member + i) % members());
  return peers;
}

std::int64_t MpiOperation::bytes_of(std::int64_t count) const {
  return count * static_cast<std::int64_t>(size_of(collective_.dtype));
}

Lane MpiOperation::open_lane(Direction direction, int member, std::size_t tag) {
  const int rank = collective_.ranks[static_cast<std::size_t>(member)];
  return {exchange_, direction, rank, setup_.tags.at(tag)};
}

}  // namespace kolo::core
