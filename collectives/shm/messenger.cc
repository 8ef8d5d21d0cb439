#include "shm/messenger.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

namespace kolo::core::shm {

Messenger::Messenger(std::shared_ptr<const Host> host, Section section) : host_(std::move(host)) {
  const int self = host_->self();
  for (int peer = 0; peer < host_->size(); ++peer) {
    outgoing_.push_back({.ring = RingWriter(host_->ring_between(section, self, peer))});
    incoming_.push_back({.ring = RingReader(host_->ring_between(section, peer, self))});
  }
}

void Messenger::Outgoing::write(std::span<const std::byte> bytes) {
  if (rest.empty()) bytes = bytes.subspan(ring.write(bytes));
  rest.insert(rest.end(), bytes.begin(), bytes.end());
}

void Messenger::send(int local_rank, std::span<const std::byte> head,
                     std::span<const std::byte> body) {
  Outgoing& outgoing = outgoing_[static_cast<std::size_t>(local_rank)];
  if (outgoing.ended) return;
  const std::uint64_t length = head.size() + body.size();
  outgoing.write(std::as_bytes(std::span(&length, 1)));
  outgoing.write(head);
  outgoing.write(body);
  outgoing.ring.publish();
  host_->ring(local_rank);
  if (!outgoing.rest.empty()) flush(local_rank);
}

void Messenger::flush(int local_rank) {
  Outgoing& outgoing = outgoing_[static_cast<std::size_t>(local_rank)];
  while (outgoing.gone < outgoing.rest.size()) {
    const std::size_t count = outgoing.ring.write(std::span(outgoing.rest).subspan(outgoing.gone));
    if (count == 0) {
      if (!outgoing.ring.wait_for_room()) return;
      continue;
    }
    outgoing.gone += count;
    outgoing.ring.publish();
    host_->ring(local_rank);
  }
  outgoing.rest.clear();
  outgoing.gone = 0;
}

/// Whether a message is complete.
bool Messenger::Incoming::take() {
  if (!length) {
    std::array<std::byte, sizeof(std::uint64_t)> prefix{};
    if (ring.available(prefix.size()) < prefix.size()) return false;
    ring.read(prefix);
    length = 0;
    std::memcpy(&*length, prefix.data(), prefix.size());
    bytes.resize(static_cast<std::size_t>(*length));
    arrived = 0;
  }
  while (arrived < bytes.size()) {
    const std::size_t count = std::min(ring.available(), bytes.size() - arrived);
    if (count == 0) return false;
    ring.read(std::span(bytes).subspan(arrived, count));
    arrived += count;
  }
  length.reset();
  return true;
}

std::optional<Messenger::Message> Messenger::receive() {
  for (int i = 0; i < host_->size(); ++i) {
    const int peer = next_;
    next_ = next_ + 1 == host_->size() ? 0 : next_ + 1;
    if (peer == host_->self()) continue;
    if (sending_to(peer)) flush(peer);
    Incoming& incoming = incoming_[static_cast<std::size_t>(peer)];
    const bool ended = incoming.ring.ended();
    if (incoming.ring.available() > 0) {
      const bool complete = incoming.take();
      if (incoming.ring.release()) host_->ring(peer);
      if (complete) return Message{.local_rank = peer, .bytes = incoming.bytes};
    }
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
