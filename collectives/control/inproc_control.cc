#include "control/inproc_control.h"

#include <cassert>
#include <utility>

namespace kolo::core {

class InprocControlPlane final : public ControlPlane {
 public:
  InprocControlPlane(std::shared_ptr<InprocControlHub> hub, const Topology& topology)
      : hub_(std::move(hub)), topology_(topology) {}

  ~InprocControlPlane() override {
    const std::lock_guard lock(hub_->mutex_);
    InprocControlHub::Mailbox& own = mailbox(topology_.rank);
    own.closed = true;
    own.doorbell = nullptr;
    own.envelopes.clear();
  }

  InprocControlPlane(const InprocControlPlane&) = delete;
  InprocControlPlane& operator=(const InprocControlPlane&) = delete;

  const Topology& topology() const override { return topology_; }

  Status send(int destination, std::span<const std::byte> bytes) override {
    assert(destination >= 0 && destination < topology_.size && destination != topology_.rank);
    Envelope envelope{topology_.rank, {bytes.begin(), bytes.end()}};
    const std::lock_guard lock(hub_->mutex_);
    InprocControlHub::Mailbox& peer = mailbox(destination);
    if (peer.closed) return {};
    peer.envelopes.push_back(std::move(envelope));
    // Under the lock, so that the peer cannot go away with its doorbell.
    if (peer.doorbell != nullptr) peer.doorbell->ring();
    return {};
  }

  Result<std::optional<Envelope>> receive() override {
    const std::lock_guard lock(hub_->mutex_);
    std::deque<Envelope>& envelopes = mailbox(topology_.rank).envelopes;
    if (envelopes.empty()) return std::optional<Envelope>();
    std::optional<Envelope> next(std::move(envelopes.front()));
    envelopes.pop_front();
    return next;
  }

  bool sending() const override { return false; }
  bool rings() const override { return true; }

 private:
  InprocControlHub::Mailbox& mailbox(int rank) {
    return hub_->mailboxes_[static_cast<std::size_t>(rank)];
  }

  const std::shared_ptr<InprocControlHub> hub_;
  const Topology topology_;
};

std::shared_ptr<InprocControlHub> InprocControlHub::create(int size) {
  assert(size > 0);
  return std::shared_ptr<InprocControlHub>(new InprocControlHub(size));
}

std::unique_ptr<ControlPlane> InprocControlHub::connect(int rank, Doorbell& own) {
  Topology topology;
  topology.rank = topology.local_rank = rank;
  {
    const std::lock_guard lock(mutex_);
    topology.size = topology.local_size = static_cast<int>(mailboxes_.size());
    assert(rank >= 0 && rank < topology.size);
    Mailbox& mailbox = mailboxes_[static_cast<std::size_t>(rank)];
    assert(mailbox.doorbell == nullptr && !mailbox.closed);
    mailbox.doorbell = &own;
    if (!mailbox.envelopes.empty()) own.ring();
  }
  return std::make_unique<InprocControlPlane>(shared_from_this(), topology);
}

}  // namespace kolo::core
