#include "data/mpi_exchange.h"

#include <fmt/format.h>

#include <cassert>
#include <chrono>
#include <map>
#include <string>

namespace kolo::core {
namespace {

// How long an operation that failed waits for transfers that MPI does not cancel.
constexpr std::chrono::milliseconds kPatience{20};

std::string describe(Direction direction, int rank) {
  return direction == Direction::Send ? fmt::format("sending to rank {}", rank)
                                      : fmt::format("receiving from rank {}", rank);
}

}  // namespace

Exchange::~Exchange() {
  if (!requests_.settle(kPatience)) {
    mpi::leave_to_mpi(std::shared_ptr<std::byte[]>(std::move(scratch_)));
  }
}

std::byte* Exchange::allocate_scratch(std::int64_t bytes) {
  assert(scratch_ == nullptr);
  scratch_ = std::make_unique_for_overwrite<std::byte[]>(static_cast<std::size_t>(bytes));
  return scratch_.get();
}

Result<bool> Exchange::poll() {
  const Result<mpi::Requests::Tested> tested = requests_.test();
  if (!tested.ok()) return tested.status();
  for (const mpi::Requests::Failure& failure : tested.value().failures) {
    const Peer& peer = peers_[failure.slot / static_cast<std::size_t>(kWindow)];
    return mpi::check(failure.code, describe(peer.direction, peer.rank));
  }
  return tested.value().completed_any;
}

std::vector<int> Exchange::silent_ranks() const {
  std::map<int, bool> silent;
  for (std::size_t lane = 0; lane < peers_.size(); ++lane) {
    const Peer& peer = peers_[lane];
    if (peer.direction != Direction::Receive || peer.posted == 0) continue;
    const bool first_is_due =
        peer.posted <= kWindow && !requests_.idle(lane * static_cast<std::size_t>(kWindow));
    const auto entry = silent.try_emplace(peer.rank, true).first;
    entry->second = entry->second && first_is_due;
  }
  std::vector<int> ranks;
  for (const auto& [rank, is_silent] : silent) {
    if (is_silent) ranks.push_back(rank);
  }
  return ranks;
}

Lane::Lane(Exchange& exchange, Direction direction, int rank, int tag)
    : exchange_(&exchange),
      lane_(exchange.peers_.size()),
      first_slot_(exchange.requests_.add(static_cast<std::size_t>(kWindow))),
      tag_(tag) {
  exchange.peers_.push_back({direction, rank});
}

std::int64_t Lane::posted() const { return exchange_->peers_[lane_].posted; }

Status Lane::post(std::span<std::byte> chunk) {
  assert(has_room());
  Exchange::Peer& peer = exchange_->peers_[lane_];
  MPI_Request* const request = exchange_->requests_.slot(slot(posted()));
  const int bytes = static_cast<int>(chunk.size());
  const int code =
      peer.direction == Direction::Send
          ? MPI_Isend(chunk.data(), bytes, MPI_BYTE, peer.rank, tag_, exchange_->comm_, request)
          : MPI_Irecv(chunk.data(), bytes, MPI_BYTE, peer.rank, tag_, exchange_->comm_, request);
  if (code != MPI_SUCCESS) return mpi::check(code, describe(peer.direction, peer.rank));
  ++peer.posted;
  return {};
}

Status Lane::post(const Chunks& chunks, std::int64_t end) {
  Status status;
  while (status.ok() && posted() < end && has_room()) status = post(chunks[posted()]);
  return status;
}

std::int64_t Lane::completed() {
  while (completed_ < posted() && exchange_->requests_.idle(slot(completed_))) ++completed_;
  return completed_;
}

}  // namespace kolo::core
