#pragma once

/// A control plane between threads of one process: for tests, and for a process that is alone.

#include <deque>
#include <memory>
#include <mutex>
#include <vector>

#include "base/doorbell.h"
#include "control/control_plane.h"

namespace kolo::core {

/// Where the ranks' planes meet. Thread-safe.
class InprocControlHub : public std::enable_shared_from_this<InprocControlHub> {
 public:
  static std::shared_ptr<InprocControlHub> create(int size);

  /// The plane of `rank`, to be asked for once per rank. Messages that arrive ring `own`, which
  /// must outlive the plane. Messages to a rank that has not connected yet wait for it; those to
  /// one whose plane has been destroyed are dropped.
  std::unique_ptr<ControlPlane> connect(int rank, Doorbell& own);

 private:
  friend class InprocControlPlane;

  struct Mailbox {
    std::deque<Envelope> envelopes;
    Doorbell* doorbell = nullptr;
    bool closed = false;
  };

  explicit InprocControlHub(int size) : mailboxes_(static_cast<std::size_t>(size)) {}

  std::mutex mutex_;
  std::vector<Mailbox> mailboxes_;
};

}  // namespace kolo::core
