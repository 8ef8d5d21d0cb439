#include "data/shm_exchange.h"

#include <cassert>
#include <cstring>
#include <type_traits>
#include <utility>

namespace kolo::core {
namespace {

constexpr std::size_t kMostSpare = 16;

static_assert(std::is_trivially_copyable_v<ShmSignal>);
// So that payloads lie in whole lines of a ring.
static_assert(sizeof(ShmSignal) == shm::Ring::Cell::kHeadBytes);

void note(ShmMember& member, const ShmSignal& signal, std::vector<std::byte>& message) {
  switch (signal.kind) {
    case ShmSignal::Kind::ArrivedWithPayload:
      member.message.swap(message);
      [[fallthrough]];
    case ShmSignal::Kind::ArrivedStaged:
    case ShmSignal::Kind::ArrivedDirect:
    case ShmSignal::Kind::ArrivedDeclining:
      member.arrived = true;
      member.declined = signal.kind == ShmSignal::Kind::ArrivedDeclining;
      member.direct = signal.kind == ShmSignal::Kind::ArrivedDirect;
      member.bytes = signal.bytes;
      member.place = signal.place;
      break;
    case ShmSignal::Kind::Filled:
      ++member.filled;
      member.filled_place = signal.place;
      break;
    case ShmSignal::Kind::FinishedWithPayload:
      member.message.swap(message);
      [[fallthrough]];
    case ShmSignal::Kind::Finished:
      ++member.finished;
      member.finished_place = signal.place;
      break;
    case ShmSignal::Kind::GaveUp:
      member.gave_up = true;
      break;
  }
}

}  // namespace

const std::byte* ShmMember::payload() const { return message.data() + sizeof(ShmSignal); }

ShmExchange::ShmExchange(std::shared_ptr<const shm::Host> host)
    : host_(std::move(host)), messenger_(host_, shm::Section::Data) {}

ShmExchange::Members& ShmExchange::about(Key key) {
  const auto found = known_.find(key);
  if (found != known_.end()) return found->second;
  if (spare_.empty()) {
    const auto size = static_cast<std::size_t>(host_->size());
    return known_.emplace(key, Members{std::vector<ShmMember>(size), std::vector<bool>(size)})
        .first->second;
  }
  spare_.back().key() = key;
  Members& members = known_.insert(std::move(spare_.back())).position->second;
  spare_.pop_back();
  return members;
}

void ShmExchange::forget(Key key) {
  auto node = known_.extract(key);
  if (node.empty() || spare_.size() == kMostSpare) return;
  Members& members = node.mapped();
  for (std::size_t i = 0; i < members.each.size(); ++i) {
    if (!members.told[i]) continue;
    std::vector<std::byte> message = std::move(members.each[i].message);
    members.each[i] = {.message = std::move(message)};
    members.told[i] = false;
  }
  members.arrived = 0;
  members.any_gave_up = false;
  spare_.push_back(std::move(node));
}

void ShmExchange::tell(int local_rank, const ShmSignal& signal,
                       std::span<const std::byte> payload) {
  messenger_.send(local_rank, std::as_bytes(std::span(&signal, 1)), payload);
}

void ShmExchange::tell_quietly(int local_rank, const ShmSignal& signal) {
  messenger_.leave(local_rank, std::as_bytes(std::span(&signal, 1)));
}

void ShmExchange::give_up(int local_rank, const ShmSignal& signal) {
  tell(local_rank, signal);
  if (telling(local_rank)) messenger_.break_off(local_rank);
}

void ShmExchange::listen() {
  while (const auto message = messenger_.receive()) {
    ShmSignal signal;
    assert(message->bytes.size() >= sizeof(signal));
    std::memcpy(&signal, message->bytes.data(), sizeof(signal));
    Members& members = about({signal.channel, signal.sequence});
    const auto sender = static_cast<std::size_t>(message->local_rank);
    ShmMember& member = members.each[sender];
    const bool had_arrived = member.arrived;
    note(member, signal, message->bytes);
    members.told[sender] = true;
    members.arrived += member.arrived && !had_arrived ? 1 : 0;
    members.any_gave_up |= member.gave_up;
  }
}

}  // namespace kolo::core
