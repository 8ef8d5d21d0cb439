#include "control/mpi_control.h"

#include <fmt/format.h>

#include <cassert>
#include <chrono>
#include <limits>
#include <thread>
#include <utility>

namespace kolo::core {
namespace {

// The communicator is the plane's own: one tag will do.
constexpr int kTag = 0;

// How long the destructor waits for messages to leave.
constexpr std::chrono::milliseconds kFarewell{500};

/// What a single request came to: whether it has completed, or its failure.
Result<bool> test_one(mpi::Requests& request, std::string_view what) {
  const Result<mpi::Requests::Tested> tested = request.test();
  if (!tested.ok()) return tested.status();
  for (const mpi::Requests::Failure& failure : tested.value().failures) {
    return mpi::check(failure.code, what);
  }
  return request.idle();
}

}  // namespace

Result<std::unique_ptr<MpiControlPlane>> MpiControlPlane::create(const mpi::Session& session) {
  const Result<Topology> topology = session.topology();
  if (!topology.ok()) return topology.status();
  Result<mpi::Comm> comm = session.duplicate_world();
  if (!comm.ok()) return comm.status();
  return std::unique_ptr<MpiControlPlane>(
      new MpiControlPlane(std::move(comm).value(), topology.value()));
}

MpiControlPlane::MpiControlPlane(mpi::Comm comm, const Topology& topology)
    : comm_(std::move(comm)), topology_(topology) {}

MpiControlPlane::~MpiControlPlane() {
  const auto deadline = std::chrono::steady_clock::now() + kFarewell;
  while (mpi::is_active() && retire_outgoing().ok() && !outgoing_.empty() &&
         std::chrono::steady_clock::now() < deadline) {
    std::this_thread::yield();
  }
  if (!outgoing_.empty()) {
    mpi::leave_to_mpi(std::make_shared<std::list<Outgoing>>(std::move(outgoing_)));
  }
  if (incoming_ && !incoming_->request.settle(kFarewell)) {
    mpi::leave_to_mpi(std::shared_ptr<Incoming>(std::move(incoming_)));
  }
}

Status MpiControlPlane::send(int destination, std::span<const std::byte> bytes) {
  assert(destination >= 0 && destination < topology_.size && destination != topology_.rank);
  if (bytes.size() > static_cast<std::size_t>(std::numeric_limits<int>::max())) {
    return Status::error(fmt::format("a control message of {} bytes to rank {} is too large",
                                     bytes.size(), destination));
  }
  Outgoing& message = outgoing_.emplace_back();
  message.destination = destination;
  message.bytes.assign(bytes.begin(), bytes.end());
  const int code = MPI_Isend(message.bytes.data(), static_cast<int>(message.bytes.size()), MPI_BYTE,
                             destination, kTag, comm_.get(), message.request.slot(0));
  if (code != MPI_SUCCESS) {
    outgoing_.pop_back();
    return mpi::check(code, fmt::format("control message to rank {}", destination));
  }
  return retire_outgoing();
}

Status MpiControlPlane::retire_outgoing() {
  while (!outgoing_.empty()) {
    Outgoing& oldest = outgoing_.front();
    const Result<bool> sent =
        test_one(oldest.request, fmt::format("control message to rank {}", oldest.destination));
    if (!sent.ok()) return sent.status();
    if (!sent.value()) break;
    outgoing_.pop_front();
  }
  return {};
}

Status MpiControlPlane::match_incoming() {
  int found = 0;
  MPI_Message message = MPI_MESSAGE_NULL;
  MPI_Status status;
  Status probed =
      mpi::check(MPI_Improbe(MPI_ANY_SOURCE, kTag, comm_.get(), &found, &message, &status),
                 "looking for control messages");
  if (!probed.ok() || found == 0) return probed;
  int bytes = 0;
  MPI_Get_count(&status, MPI_BYTE, &bytes);
  incoming_ = std::make_unique<Incoming>();
  incoming_->envelope.source = status.MPI_SOURCE;
  incoming_->envelope.bytes.resize(static_cast<std::size_t>(bytes));
  return mpi::check(MPI_Imrecv(incoming_->envelope.bytes.data(), bytes, MPI_BYTE, &message,
                               incoming_->request.slot(0)),
                    fmt::format("control message from rank {}", status.MPI_SOURCE));
}

Result<std::optional<Envelope>> MpiControlPlane::receive() {
  if (Status status = retire_outgoing(); !status.ok()) return status;
  if (!incoming_) {
    if (Status status = match_incoming(); !status.ok()) return status;
    if (!incoming_) return std::optional<Envelope>();
  }
  const Result<bool> arrived = test_one(
      incoming_->request, fmt::format("control message from rank {}", incoming_->envelope.source));
  if (!arrived.ok()) return arrived.status();
  if (!arrived.value()) return std::optional<Envelope>();
  std::optional<Envelope> envelope(std::move(incoming_->envelope));
  incoming_.reset();
  return envelope;
}

}  // namespace kolo::core
