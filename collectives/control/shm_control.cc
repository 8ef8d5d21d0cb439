#include "control/shm_control.h"

#include <fmt/format.h>

#include <chrono>
#include <thread>
#include <utility>

namespace kolo::core {
namespace {

// How long the destructor waits for messages to leave.
constexpr std::chrono::milliseconds kFarewell{500};

}  // namespace

ShmControlPlane::ShmControlPlane(std::shared_ptr<const shm::Host> host, const Topology& topology)
    : host_(std::move(host)), topology_(topology), messenger_(host_, shm::Section::Control) {}

ShmControlPlane::~ShmControlPlane() {
  const auto deadline = std::chrono::steady_clock::now() + kFarewell;
  while (messenger_.sending() && std::chrono::steady_clock::now() < deadline) {
    (void)messenger_.receive();
    std::this_thread::yield();
  }
}

Status ShmControlPlane::send(int destination, std::span<const std::byte> bytes) {
  const std::optional<int> peer = host_->local_rank(destination);
  if (!peer || *peer == host_->self()) {
    return Status::error(
        fmt::format("a control message to rank {}, which is not another rank of "
                    "this host",
                    destination));
  }
  messenger_.send(*peer, bytes);
  return {};
}

Result<std::optional<Envelope>> ShmControlPlane::receive() {
  const auto message = messenger_.receive();
  if (!message) return std::optional<Envelope>();
  const int source = host_->ranks()[static_cast<std::size_t>(message->local_rank)];
  return std::optional<Envelope>(Envelope{.source = source, .bytes = std::move(message->bytes)});
}

}  // namespace kolo::core
