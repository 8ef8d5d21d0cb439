#include "shm/messenger.h"

#include <algorithm>
#include <utility>

namespace kolo::core::shm {

Messenger::Messenger(std::shared_ptr<const Host> host, Section section) : host_(std::move(host)) {
  const int self = host_->self();
  for (int peer = 0; peer < host_->size(); ++peer) {
    outgoing_.push_back({.ring = RingWriter(host_->ring_between(section, self, peer))});
    incoming_.push_back({.ring = RingReader(host_->ring_between(section, peer, self))});
  }
}

void Messenger::send(int local_rank, std::span<const std::byte> head,
                     std::span<const std::byte> body) {
  if (write(local_rank, head, body)) host_->ring(local_rank);
}

void Messenger::leave(int local_rank, std::span<const std::byte> head) {
  (void)write(local_rank, head, {});
}

/// Whether all of it is in the ring now. What is not, goes later.
bool Messenger::write(int local_rank, std::span<const std::byte> head,
                      std::span<const std::byte> body) {
  Outgoing& outgoing = outgoing_[static_cast<std::size_t>(local_rank)];
  if (outgoing.ended) return false;
  const bool is_frame = head.size() + body.size() <= Ring::kMostInFrame && outgoing.rest.empty();
  if (is_frame && outgoing.ring.write(head, body, /*goes_on=*/false)) return true;
  std::vector<std::byte>& message = outgoing.rest.emplace_back(head.begin(), head.end());
  message.insert(message.end(), body.begin(), body.end());
  flush(local_rank);
  return false;
}

void Messenger::flush(int local_rank) {
  Outgoing& outgoing = outgoing_[static_cast<std::size_t>(local_rank)];
  while (!outgoing.rest.empty()) {
    const std::span<const std::byte> left = std::span(outgoing.rest.front()).subspan(outgoing.gone);
    const auto piece = left.first(std::min(left.size(), Ring::kMostInFrame));
    const bool goes_on = piece.size() < left.size();
    if (!outgoing.ring.write(piece, {}, goes_on)) {
      if (!outgoing.ring.wait_for_room(piece.size())) return;
      continue;
    }
    host_->ring(local_rank);
    outgoing.gone += piece.size();
    if (goes_on) continue;
    outgoing.rest.pop_front();
    outgoing.gone = 0;
  }
}

/// Whether a message is complete.
bool Messenger::Incoming::take() {
  while (const std::optional<Ring::Frame> frame = ring.next()) {
    const std::size_t begin = goes_on ? bytes.size() : 0;
    bytes.resize(begin + frame->bytes);
    ring.read(*frame, bytes.data() + begin);
    goes_on = frame->goes_on;
    if (!goes_on) return true;
  }
  return false;
}

std::optional<Messenger::Message> Messenger::receive() {
  for (int i = 0; i < host_->size(); ++i) {
    const int peer = next_;
    next_ = next_ + 1 == host_->size() ? 0 : next_ + 1;
    if (peer == host_->self()) continue;
    if (sending_to(peer)) flush(peer);
    Incoming& incoming = incoming_[static_cast<std::size_t>(peer)];
    const bool ended = incoming.ring.ended();
    const bool complete = incoming.take();
    // As late as it does no harm: what has come is of more use than room.
    const bool releases = complete ? incoming.ring.holds_much() : incoming.ring.holds();
    if (releases && incoming.ring.release()) host_->ring(peer);
    if (complete) return Message{.local_rank = peer, .bytes = incoming.bytes};
    incoming.ended = ended;
  }
  return std::nullopt;
}

void Messenger::break_off(int local_rank) {
  Outgoing& outgoing = outgoing_[static_cast<std::size_t>(local_rank)];
  outgoing.rest.clear();
  outgoing.gone = 0;
  outgoing.ended = true;
  outgoing.ring.end();
  host_->ring(local_rank);
}

bool Messenger::broken_off(int local_rank) const {
  const auto index = static_cast<std::size_t>(local_rank);
  return outgoing_[index].ended || incoming_[index].ended;
}

bool Messenger::sending_to(int local_rank) const {
  return !outgoing_[static_cast<std::size_t>(local_rank)].rest.empty();
}

bool Messenger::sending() const {
  for (int peer = 0; peer < host_->size(); ++peer) {
    if (sending_to(peer)) return true;
  }
  return false;
}

}  // namespace kolo::core::shm
