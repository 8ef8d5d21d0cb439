#include "shm/messenger.h"

#include <algorithm>
#include <utility>

namespace kolo::core::shm {
namespace {

/// So many ranks look at all rings.
constexpr int kFewRanks = 4;

}  // namespace

Messenger::Messenger(std::shared_ptr<const Host> host, Section section)
    : host_(std::move(host)),
      by_notice_(host_->size() > kFewRanks),
      notices_(&host_->notice_between(section, /*sender=*/0, host_->self())),
      seen_(static_cast<std::size_t>(host_->size())) {
  const int self = host_->self();
  for (int peer = 0; peer < host_->size(); ++peer) {
    outgoing_.push_back({.ring = RingWriter(host_->ring_between(section, self, peer)),
                         .notice = &host_->notice_between(section, self, peer)});
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
  if (is_frame && outgoing.ring.write(head, body, /*goes_on=*/false)) {
    leave_notice(outgoing);
    return true;
  }
  // Where memory is lacking, nothing was sent.
  std::vector<std::byte> message(head.begin(), head.end());
  message.insert(message.end(), body.begin(), body.end());
  outgoing.rest.push_back(std::move(message));
  if (outgoing.rest.size() == 1) ++crowded_rings_;
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
    leave_notice(outgoing);
    host_->ring(local_rank);
    outgoing.gone += piece.size();
    if (goes_on) continue;
    outgoing.rest.pop_front();
    outgoing.gone = 0;
    if (outgoing.rest.empty()) --crowded_rings_;
  }
}

void Messenger::leave_notice(const Outgoing& outgoing) const {
  if (!by_notice_) return;
  const std::uint64_t written = outgoing.ring.written() + (outgoing.ended ? 1 : 0);
  outgoing.notice->store(static_cast<std::uint16_t>(written), std::memory_order_release);
}

bool Messenger::may_have_written(int local_rank) const {
  const auto index = static_cast<std::size_t>(local_rank);
  return !by_notice_ || notices_[index].load(std::memory_order_acquire) != seen_[index];
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
    if (sending() && sending_to(peer)) flush(peer);
    if (!may_have_written(peer)) continue;
    Incoming& incoming = incoming_[static_cast<std::size_t>(peer)];
    const bool ended = incoming.ring.ended();
    const bool complete = incoming.take();
    // As late as it does no harm: what has come is of more use than room. A writer that lacks any
    // has written more than half of the ring, or a piece of a message.
    const bool releases = incoming.goes_on ? incoming.ring.holds() : incoming.ring.holds_much();
    if (releases && incoming.ring.release()) host_->ring(peer);
    if (!complete && ended) incoming.ended = any_broken_off_ = true;
    const std::uint64_t seen = incoming.ring.frames() + (incoming.ended ? 1 : 0);
    seen_[static_cast<std::size_t>(peer)] = static_cast<std::uint16_t>(seen);
    if (complete) return Message{.local_rank = peer, .bytes = incoming.bytes};
  }
  return std::nullopt;
}

void Messenger::break_off(int local_rank) {
  Outgoing& outgoing = outgoing_[static_cast<std::size_t>(local_rank)];
  if (!outgoing.rest.empty()) --crowded_rings_;
  outgoing.rest.clear();
  outgoing.gone = 0;
  outgoing.ended = any_broken_off_ = true;
  outgoing.ring.end();
  leave_notice(outgoing);
  host_->ring(local_rank);
}

bool Messenger::broken_off(int local_rank) const {
  const auto index = static_cast<std::size_t>(local_rank);
  return outgoing_[index].ended || incoming_[index].ended;
}

bool Messenger::sending_to(int local_rank) const {
  return !outgoing_[static_cast<std::size_t>(local_rank)].rest.empty();
}

}  // namespace kolo::core::shm
